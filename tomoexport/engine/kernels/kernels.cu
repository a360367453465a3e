// The kernels for CUDA: same arithmetic as reference.py. Compiled at run time by NVRTC through CuPy; the tests also
// compile this very text with a C++ compiler (kernels_shim.h) and run it on the CPU.

#define HALO 3
#define TAPS 4
#define EACH(i, n) for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (n); \
                        i += (long long)blockDim.x * gridDim.x)

extern "C" {

__global__ void crop(const float* stack, const int* origin, float* out, int n, int t, int h, int w, int size)
{
    EACH(i, (long long)n * t * size * size) {
        int x = i % size, y = i / size % size;
        long long window = i / ((long long)size * size);
        int sy = origin[2 * window] + y, sx = origin[2 * window + 1] + x;
        bool inside = sy >= 0 && sy < h && sx >= 0 && sx < w;
        out[i] = inside ? stack[((window % t) * h + sy) * (long long)w + sx] : 0.f;
    }
}

__global__ void modulate(float2* data, const float* phase, const float* slope, const float* depth, const float* shift,
                         const float* envelope, const unsigned char* visible, float* transfer, int n, int t, int s,
                         int mode)
{
    int sh = s / 2 + 1;
    EACH(i, (long long)n * t * s * sh) {
        int x = i % sh, y = i / sh % s;
        long long window = i / ((long long)s * sh);
        long long sample = (window % t) * s * sh + (long long)y * sh + x;
        if (!visible[window]) {
            data[i].x = data[i].y = transfer[i] = 0.f;
            continue;
        }
        float factor = envelope[sample], ctf = 1.f;
        if (mode != 2) {
            float cycles = phase[sample] + depth[window] * slope[y * sh + x];
            ctf = -sinpif(2.f * (cycles - rintf(cycles)));
            if (mode == 1) factor *= ctf;
            else if (ctf < 0.f) factor = -factor;
        }
        transfer[i] = factor * ctf;
        int ky = y < (s + 1) / 2 ? y : y - s;
        float turn = 2.f * (shift[2 * window] * ky + shift[2 * window + 1] * x) / s, sine, cosine;
        sincospif(turn, &sine, &cosine);
        float2 v = data[i];
        data[i].x = factor * (v.x * cosine - v.y * sine);
        data[i].y = factor * (v.x * sine + v.y * cosine);
    }
}

__device__ void kernel_weights(const float* table, double place, int precision, float* w)
{
    int cell = min((int)place, precision - 1);
    float part = (float)(place - cell), rest = 1.f - part;
    for (int i = 0; i < TAPS; i++) w[i] = table[cell * TAPS + i] * rest + table[(cell + 1) * TAPS + i] * part;
}

__global__ void insert_slices(const float2* data, const float* weight, const double* matrix, const float* table,
                              float* out, int n, int t, int b, int n_matrices, int precision, int grid)
{
    int bh = b / 2 + 1, side = grid + 2 * HALO, half = grid / 2 + 1 + 2 * HALO;
    EACH(i, (long long)n * t * b * bh) {
        int qx = i % bh, y = i / bh % b;
        long long window = i / ((long long)b * bh);
        int qy = y < (b + 1) / 2 ? y : y - b;
        if (qx * qx + qy * qy >= 0.25 * b * b || (qx == 0 && qy < 0)) continue;
        long long particle = window / t;
        const double* m = matrix + ((n_matrices > 1 ? particle : 0) * t + window % t) * 6;
        double k[3];
        for (int a = 0; a < 3; a++) k[a] = m[2 * a] * qx + m[2 * a + 1] * qy;
        if (fabs(k[0]) >= grid / 2 || fabs(k[1]) >= grid / 2 || fabs(k[2]) >= grid / 2) continue;
        float re = data[i].x, im = data[i].y, w = weight[i], once = 1.f;
        if (k[0] < 0) {
            for (int a = 0; a < 3; a++) k[a] = -k[a];
            im = -im;
        }
        if (qx == 0 && qy == 0) { once = 0.5f; re *= once; im *= once; w *= once; }
        float taps[3][TAPS];
        int first[3];
        for (int a = 0; a < 3; a++) {
            double lower = floor(k[a]);
            kernel_weights(table, (k[a] - lower) * precision, precision, taps[a]);
            first[a] = (int)lower - 1 + HALO + (a ? grid / 2 : 0);
        }
        float* cells = out + particle * side * (long long)side * half * 4;
        for (int dz = 0; dz < TAPS; dz++)
            for (int dy = 0; dy < TAPS; dy++) {
                float wzy = taps[2][dz] * taps[1][dy];
                float* line = cells + 4 * (((long long)(first[2] + dz) * side + first[1] + dy) * half + first[0]);
                for (int dx = 0; dx < TAPS; dx++) {
                    float f = wzy * taps[0][dx];
                    atomicAdd(line + 4 * dx, re * f);
                    atomicAdd(line + 4 * dx + 1, im * f);
                    atomicAdd(line + 4 * dx + 2, w * f);
                    atomicAdd(line + 4 * dx + 3, once * f);
                }
            }
    }
}

// Sum of the cells that stand for frequency (x, ky, kz), x within the stored range, ky and kz periodic.
__device__ float3 cell_sum(const float* cells, int x, int ky, int kz, int grid)
{
    int side = grid + 2 * HALO, half = grid / 2 + 1 + 2 * HALO;
    float3 sum;
    sum.x = sum.y = sum.z = 0.f;
    int z0 = (kz + grid + grid / 2) % grid + HALO, y0 = (ky + grid + grid / 2) % grid + HALO;
    for (int z = z0 - grid; z <= z0 + grid; z += grid) {
        if (z < 0 || z >= side) continue;
        for (int y = y0 - grid; y <= y0 + grid; y += grid) {
            if (y < 0 || y >= side) continue;
            const float* v = cells + 4 * (((long long)z * side + y) * half + x + HALO);
            sum.x += v[0];
            sum.y += v[1];
            sum.z += v[2];
        }
    }
    return sum;
}

__global__ void fold_grid(const float* cells, float2* data, float2* weight, int n, int grid)
{
    int gh = grid / 2 + 1, side = grid + 2 * HALO, half = grid / 2 + 1 + 2 * HALO;
    EACH(i, (long long)n * grid * grid * gh) {
        int x = i % gh, y = i / gh % grid, z = i / ((long long)gh * grid) % grid;
        const float* own = cells + i / ((long long)gh * grid * grid) * side * (long long)side * half * 4;
        float3 v = cell_sum(own, x, y, z, grid);
        if (x <= HALO) {
            float3 mate = cell_sum(own, -x, -y, -z, grid);
            v.x += mate.x; v.y -= mate.y; v.z += mate.z;
        }
        if (grid - x <= grid / 2 + HALO) {
            float3 mate = cell_sum(own, grid - x, -y, -z, grid);
            v.x += mate.x; v.y -= mate.y; v.z += mate.z;
        }
        data[i].x = v.x;
        data[i].y = v.y;
        weight[i].x = v.z;
        weight[i].y = 0.f;
    }
}

__global__ void backproject(const float* rows, const double* position, const double* slab, const int* group,
                            float* out, int t, int k, int u, int ny, int nz, int nx, int n_groups)
{
    EACH(i, (long long)nz * nx * ny) {
        int y = i % ny, x = i / ny % nx, z = i / ((long long)ny * nx);
        for (int g = 0; g < n_groups; g++) {
            float sum = 0.f;
            for (int j = 0; j < t; j++) {
                if (group[j] != g) continue;
                double place = position[3 * j] + position[3 * j + 1] * x + position[3 * j + 2] * z;
                int lower = (int)floor(place);
                if (lower < 0 || lower >= u - 1) continue;
                int version = (int)floor(slab[3 * j] + slab[3 * j + 1] * x + slab[3 * j + 2] * z);
                version = min(max(version, 0), k - 1);
                float b = (float)(place - lower), a = 1.f - b;
                const float* p = rows + (((long long)j * k + version) * u + lower) * ny + y;
                sum += a * p[0] + b * p[ny];
            }
            out[g * (long long)nz * nx * ny + i] = sum;
        }
    }
}

__global__ void backproject_general(const float* images, const double* matrix, const double* slab, const int* group,
                                    float* out, int t, int k, int h, int w, int nz, int ny, int nx, int n_groups)
{
    EACH(i, (long long)nz * ny * nx) {
        int x = i % nx, y = i / nx % ny, z = i / ((long long)nx * ny);
        for (int g = 0; g < n_groups; g++) {
            float sum = 0.f;
            for (int j = 0; j < t; j++) {
                if (group[j] != g) continue;
                const double *m = matrix + 8 * j, *s = slab + 4 * j;
                double px = m[0] * x + m[1] * y + m[2] * z + m[3], py = m[4] * x + m[5] * y + m[6] * z + m[7];
                int ix = (int)floor(px), iy = (int)floor(py);
                if (ix < 0 || ix >= w - 1 || iy < 0 || iy >= h - 1) continue;
                int version = min(max((int)floor(s[0] * x + s[1] * y + s[2] * z + s[3]), 0), k - 1);
                float fx = (float)(px - ix), fy = (float)(py - iy);
                const float* p = images + (((long long)j * k + version) * h + iy) * w + ix;
                sum += (p[0] * (1.f - fx) + p[1] * fx) * (1.f - fy) + (p[w] * (1.f - fx) + p[w + 1] * fx) * fy;
            }
            out[g * (long long)nz * ny * nx + i] = sum;
        }
    }
}

}
