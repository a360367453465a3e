// The kernels for CUDA: same arithmetic as reference.py. Compiled at run time by NVRTC through CuPy; the tests also
// compile this very text with a C++ compiler (kernels_shim.h) and run it on the CPU.

#define HALO 3
#define TAPS 4
#define WIENER_NOISE 0.1f
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

// Real part, transfer and imaginary part of a sample to which CTF, envelope and shift are applied.
__device__ float3 modulated(const float2* data, const float* phase, const float* slope, const float* depth,
                            const float* shift, const float* envelope, long long window, int t, int s, int y, int x,
                            int mode)
{
    int sh = s / 2 + 1;
    long long sample = (window % t) * s * sh + (long long)y * sh + x;
    float factor = envelope[sample], ctf = 1.f;
    if (mode != 2) {
        float cycles = phase[sample] + depth[window] * slope[y * sh + x];
        ctf = -sinpif(2.f * (cycles - rintf(cycles)));
        if (mode == 1) factor *= ctf;
        else if (ctf < 0.f) factor = -factor;
    }
    int ky = y < (s + 1) / 2 ? y : y - s;
    float turn = 2.f * (shift[2 * window] * ky + shift[2 * window + 1] * x) / s, sine, cosine;
    sincospif(turn, &sine, &cosine);
    float2 v = data[(window * s + y) * sh + x];
    float3 out;
    out.x = factor * (v.x * cosine - v.y * sine);
    out.y = factor * (mode == 1 ? factor : ctf);
    out.z = factor * (v.x * sine + v.y * cosine);
    return out;
}

__global__ void modulate(float2* data, const float* phase, const float* slope, const float* depth, const float* shift,
                         const float* envelope, const unsigned char* visible, float* transfer, int n, int t, int s,
                         int mode)
{
    int sh = s / 2 + 1;
    EACH(i, (long long)n * t * s * sh) {
        int x = i % sh, y = i / sh % s;
        long long window = i / ((long long)s * sh);
        float3 v = {0.f, 0.f, 0.f};
        if (visible[window])
            v = modulated(data, phase, slope, depth, shift, envelope, window, t, s, y, x, mode);
        data[i].x = v.x;
        data[i].y = v.z;
        transfer[i] = v.y;
    }
}

__global__ void modulate_parts(const float2* data, const float* phase, const float* slope, const float* depth,
                               const float* shift, const float* envelope, const unsigned char* visible, float* out,
                               int n, int t, int s, int mode)
{
    int sh = s / 2 + 1;
    long long plane = (long long)n * t * sh, odd = 3 * plane * sh;
    EACH(i, plane * sh) {
        int x = i % sh, y = i / plane;
        long long window = i / sh % (n * t);
        float3 a = {0.f, 0.f, 0.f}, b = {0.f, 0.f, 0.f};
        if (visible[window]) {
            a = modulated(data, phase, slope, depth, shift, envelope, window, t, s, y, x, mode);
            if (y != 0 && y != s / 2)
                b = modulated(data, phase, slope, depth, shift, envelope, window, t, s, s - y, x, mode);
        }
        float sign = (x + y) % 2 ? -1.f : 1.f;
        float sums[3] = {sign * (a.x + b.x), a.y + b.y, sign * (a.z + b.z)};
        float differences[3] = {sign * (a.x - b.x), a.y - b.y, sign * (a.z - b.z)};
        for (int c = 0; c < 3; ++c) {
            long long place = (3LL * y + c) * plane + window * sh + x;
            out[place] = sums[c];
            out[odd + place] = y != 0 && y != s / 2 ? differences[c] : 0.f;
        }
    }
}

__global__ void join_parts(const float* parts, const float* sign, const float* mask, float2* data, float* transfer,
                           int windows, int b)
{
    int bh = b / 2 + 1;
    long long plane = (long long)windows * bh, odd = 3 * plane * bh;
    EACH(i, (long long)windows * b * bh) {
        int x = i % bh, y = i / bh % b, k = y <= b / 2 ? y : b - y;
        long long window = i / ((long long)b * bh), place = 3 * plane * k + window * bh + x;
        float side = y <= b / 2 ? 1.f : -1.f, s = sign[y * bh + x];
        data[i].x = s * (parts[place] + side * parts[odd + place]);
        transfer[i] = mask[y * bh + x] * (parts[place + plane] + side * parts[odd + place + plane]);
        data[i].y = s * (parts[place + 2 * plane] + side * parts[odd + place + 2 * plane]);
    }
}

__global__ void circle(const float* rows, const float* mask, const float* mean, float* out, int n, int count, int s,
                       int size, int roll)
{
    int first = count / 2 - size / 2, left = s / 2 - size / 2;
    EACH(i, (long long)n * size * size) {
        int x = (i % size + roll) % size + left, y = (i / size % size + roll) % size + first;
        long long window = i / ((long long)size * size);
        out[i] = 0.f;
        if (y >= 0 && y < count)
            out[i] = (rows[(window * count + y) * s + x] - mean[window]) * mask[y * s + x];
    }
}

__global__ void insert_linear(const float2* data, const float* weight, const double* matrix, const double* limit,
                              float* out, int n, int t, int b, int n_matrices, int grid)
{
    int bh = b / 2 + 1, side = grid + 4, half = grid / 2 + 2, centre = grid / 2 + 2;
    EACH(i, (long long)n * t * b * bh) {
        int qx = i % bh, y = i / bh % b;
        long long window = i / ((long long)b * bh);
        int qy = y < (b + 1) / 2 ? y : y - b;
        double most = limit[window % t];
        if (qx * qx + qy * qy > most * fabs(most) || (qx == 0 && qy < 0)) continue;
        long long particle = window / t;
        const double* m = matrix + ((n_matrices > 1 ? particle : 0) * t + window % t) * 6;
        double k[3];
        for (int a = 0; a < 3; a++) k[a] = m[2 * a] * qx + m[2 * a + 1] * qy;
        double reach = grid / 2 + 1;
        if (fabs(k[0]) >= reach || fabs(k[1]) >= reach || fabs(k[2]) >= reach) continue;
        float re = data[i].x, im = data[i].y, part[3];
        if (k[0] < 0) {
            for (int a = 0; a < 3; a++) k[a] = -k[a];
            im = -im;
        }
        int first[3];
        for (int a = 0; a < 3; a++) {
            double lower = floor(k[a]);
            part[a] = (float)(k[a] - lower);
            first[a] = (int)lower + (a ? centre : 0);
        }
        float* cells = out + particle * side * (long long)side * half * 4;
        for (int corner = 0; corner < 8; corner++) {
            int dx = corner & 1, dy = corner >> 1 & 1, dz = corner >> 2;
            float f = (dx ? part[0] : 1.f - part[0]) * (dy ? part[1] : 1.f - part[1]) * (dz ? part[2] : 1.f - part[2]);
            float* cell = cells + 4 * (((long long)(first[2] + dz) * side + first[1] + dy) * half + first[0] + dx);
            atomicAdd(cell, re * f);
            atomicAdd(cell + 1, im * f);
            atomicAdd(cell + 2, weight[i] * f);
            atomicAdd(cell + 3, f);
        }
    }
}

__global__ void fold_linear(const float* cells, float2* data, float* weight, float* count, int n, int grid)
{
    int gh = grid / 2 + 1, side = grid + 4, half = grid / 2 + 2, centre = grid / 2 + 2;
    EACH(i, (long long)n * grid * grid * gh) {
        int x = i % gh, y = i / gh % grid, z = i / ((long long)gh * grid) % grid;
        int ky = y < grid / 2 ? y : y - grid, kz = z < grid / 2 ? z : z - grid;
        const float* own = cells + i / ((long long)gh * grid * grid) * side * (long long)side * half * 4;
        const float* v = own + 4 * (((long long)(centre + kz) * side + centre + ky) * half + x);
        float re = v[0], im = v[1], w = v[2], samples = v[3];
        if (x == 0) {  // the highest frequency is its own mate
            int my = ky == -(grid / 2) ? ky : -ky, mz = kz == -(grid / 2) ? kz : -kz;
            v = own + 4 * ((long long)(centre + mz) * side + centre + my) * half;
            re += v[0];
            im -= v[1];
            w += v[2];
            samples += v[3];
        }
        float sign = (x + y + z) % 2 ? -1.f : 1.f;
        data[i].x = sign * re;
        data[i].y = sign * im;
        weight[i] = w;
        count[i] = samples;
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

__global__ void fold_grid(const float* cells, float2* data, float* weight, int n, int grid)
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
        float sign = (x + y + z) % 2 ? -1.f : 1.f;
        data[i].x = sign * v.x;
        data[i].y = sign * v.y;
        weight[i] = v.z;
    }
}

// Neighbouring threads have neighbouring columns of one cell: rows are read and cells written in whole lines.
__global__ void spread_rows(const float* rows, const int* start, const int* source, const float* factor, float* out,
                            int n, int count, int cells, int length, int used)
{
    EACH(i, (long long)n * cells * length) {
        int x = i % length, c = i / length % cells;
        const float* own = rows + i / ((long long)length * cells) * count * length + x;
        float sum = 0.f;
        if (x < used)
            for (int k = start[c]; k < start[c + 1]; ++k)
                sum += factor[k] * own[(long long)source[k] * length];
        out[i] = sum;
    }
}

__device__ float between(const float* table, int n, double place)
{
    int cell = (int)fmin(place, n - 2.0);
    float part = (float)fmin(place - cell, 1.0);
    return table[cell] * (1.f - part) + table[cell + 1] * part;
}

__global__ void weigh(const float2* transform, const double* step, const float* gain_y, const float* gain_x,
                      const float* tables, const double* scale, const double* direction, const double* phase,
                      const double* depth, float2* out, int h, int wh, int n, int n_depths, int mode, int out_h,
                      int out_wh, int n_directions)
{
    EACH(i, (long long)h * wh) {
        int x = i % wh, y = i / wh, iy = y < h / 2 ? y : y - h;
        if (iy == -(h / 2) || x == wh - 1) continue;
        double ky = iy * step[0], kx = x * step[1], k2 = kx * kx + ky * ky;
        float weight = gain_y[y] * gain_x[x] * between(tables, n, k2 * scale[0]);
        for (int a = 0; a < n_directions; a++)
            weight *= between(tables + (a + 1) * n, n,
                              fabs(direction[2 * a] * kx + direction[2 * a + 1] * ky) * scale[a + 1]);
        double cycles = phase[0] * kx * kx + phase[1] * kx * ky + phase[2] * ky * ky + phase[3] * k2 * k2 + phase[4];
        float2 v = transform[i];
        for (int k = 0; k < n_depths; k++) {
            float factor = weight;
            if (mode != 2) {
                double turn = cycles + depth[k] * phase[5] * k2;
                float c = -sinpif(2.f * (float)(turn - rint(turn)));
                factor = mode == 0 ? (c < 0.f ? -weight : weight) : weight * (mode == 1 ? c : c / (c * c + WIENER_NOISE));
            }
            float2* o = out + ((long long)k * out_h + (iy < 0 ? iy + out_h : iy)) * out_wh + x;
            o->x = v.x * factor;
            o->y = v.y * factor;
        }
    }
}

__global__ void resample(const float* images, const double* origin, const double* step, const float* table, float* out,
                         int n, int h, int w, int precision, int n_u, int n_v)
{
    EACH(i, (long long)n * n_u * n_v) {
        int v = i % n_v, u = i / n_v % n_u;
        double y = origin[0] + step[0] * u + step[1] * v, x = origin[1] + step[2] * u + step[3] * v;
        int ly = (int)floor(y), lx = (int)floor(x);
        out[i] = 0.f;
        if (ly < 1 || ly >= h - 2 || lx < 1 || lx >= w - 2) continue;
        float sum = 0.f;
        const float* wy = table + TAPS * (int)((y - ly) * precision + 0.5);
        const float* wx = table + TAPS * (int)((x - lx) * precision + 0.5);
        const float* p = images + ((i / ((long long)n_u * n_v)) * h + ly - 1) * (long long)w + lx - 1;
        for (int a = 0; a < TAPS; a++, p += w)
            sum += wy[a] * (wx[0] * p[0] + wx[1] * p[1] + wx[2] * p[2] + wx[3] * p[3]);
        out[i] = sum;
    }
}

// Row below a voxel, weight of the row above; false if the voxel is not between two rows.
__device__ bool line_of(const double* position, int n_u, int x, int z, int* lower, float* part)
{
    double place = position[0] + position[1] * x + position[2] * z;
    *lower = (int)floor(place);
    *part = (float)(place - *lower);
    return *lower >= 0 && *lower < n_u - 1;
}

__device__ int version_of(const double* slab, int n, int x, int z)
{
    return min(max((int)floor(slab[0] + slab[1] * x + slab[2] * z), 0), n - 1);
}

// Volumes are [z][x][y] in these four kernels, so that neighbouring threads read and write neighbouring samples.

__global__ void backproject(const float* rows, const double* position, const double* slab, const int* group,
                            float* out, int t, int k, int u, int ny, int nz, int nx, int n_groups)
{
    EACH(i, (long long)nz * nx * ny) {
        int y = i % ny, x = i / ny % nx, z = i / ((long long)ny * nx);
        for (int g = 0; g < n_groups; g++) {
            float sum = 0.f;
            for (int j = 0; j < t; j++) {
                int lower;
                float b;
                if (group[j] != g || !line_of(position + 3 * j, u, x, z, &lower, &b)) continue;
                const float* p = rows + (((long long)j * k + version_of(slab + 3 * j, k, x, z)) * u + lower) * ny + y;
                sum += (1.f - b) * p[0] + b * p[ny];
            }
            out[g * (long long)nz * nx * ny + i] = sum;
        }
    }
}

__global__ void project(const float* volume, const double* position, float* rows, int t, int u, int ny, int nz, int nx)
{
    EACH(i, (long long)nz * nx * ny) {
        int y = i % ny, x = i / ny % nx, z = i / ((long long)ny * nx);
        for (int j = 0; j < t; j++) {
            int lower;
            float b;
            if (!line_of(position + 3 * j, u, x, z, &lower, &b)) continue;
            float* p = rows + ((long long)j * u + lower) * ny + y;
            atomicAdd(p, (1.f - b) * volume[i]);
            atomicAdd(p + ny, b * volume[i]);
        }
    }
}

// The four samples that a voxel falls between, as places in one version, with their weights; false if there are none.
__device__ bool taps_of(const double* position, const double* offset, int n_u, int n_phases, int n_y, int ny, int x,
                        int y, int z, long long* place, float* weight)
{
    int lower;
    float b;
    if (!line_of(position, n_u, x, z, &lower, &b)) return false;
    double v = offset[0] + offset[1] * x + offset[2] * z;
    int down = (int)floor(v);
    float d = (float)(v - down);
    int up = d == 0.f ? down : down + 1;
    // Division that rounds down.
    int first = down >= 0 ? down / n_phases : -((n_phases - 1 - down) / n_phases);
    int second = up >= 0 ? up / n_phases : -((n_phases - 1 - up) / n_phases);
    if (first < 0 || second + ny > n_y) return false;
    place[0] = ((long long)lower * n_phases + down - first * n_phases) * n_y + first + y;
    place[1] = ((long long)lower * n_phases + up - second * n_phases) * n_y + second + y;
    place[2] = place[0] + (long long)n_phases * n_y;
    place[3] = place[1] + (long long)n_phases * n_y;
    weight[0] = (1.f - b) * (1.f - d);
    weight[1] = (1.f - b) * d;
    weight[2] = b * (1.f - d);
    weight[3] = b * d;
    return true;
}

__global__ void backproject_sheared(const float* rows, const double* position, const double* offset,
                                    const double* slab, const int* group, float* out, int t, int k, int u, int f,
                                    int n_y, int nz, int nx, int ny, int n_groups)
{
    EACH(i, (long long)nz * nx * ny) {
        int y = i % ny, x = i / ny % nx, z = i / ((long long)ny * nx);
        for (int g = 0; g < n_groups; g++) {
            float sum = 0.f, weight[4];
            long long place[4];
            for (int j = 0; j < t; j++) {
                if (group[j] != g
                    || !taps_of(position + 3 * j, offset + 3 * j, u, f, n_y, ny, x, y, z, place, weight)) continue;
                const float* p = rows + ((long long)j * k + version_of(slab + 3 * j, k, x, z)) * u * f * n_y;
                for (int a = 0; a < 4; a++) sum += weight[a] * p[place[a]];
            }
            out[g * (long long)nz * nx * ny + i] = sum;
        }
    }
}

__global__ void project_sheared(const float* volume, const double* position, const double* offset, float* rows, int t,
                                int u, int f, int n_y, int nz, int nx, int ny)
{
    EACH(i, (long long)nz * nx * ny) {
        int y = i % ny, x = i / ny % nx, z = i / ((long long)ny * nx);
        float weight[4];
        long long place[4];
        for (int j = 0; j < t; j++) {
            if (!taps_of(position + 3 * j, offset + 3 * j, u, f, n_y, ny, x, y, z, place, weight)) continue;
            float* p = rows + (long long)j * u * f * n_y;
            for (int a = 0; a < 4; a++) atomicAdd(p + place[a], weight[a] * volume[i]);
        }
    }
}

}
