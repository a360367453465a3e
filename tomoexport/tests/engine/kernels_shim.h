// Just enough of CUDA to compile kernels.cu with a C++ compiler: one thread that walks every grid-stride loop.
#include <algorithm>
#include <cmath>
using std::fabs;
using std::floor;
using std::fmin;
using std::max;
using std::min;
using std::rint;
struct float2 { float x, y; };
struct float3 { float x, y, z; };
struct dim3_shim { int x; };
static const dim3_shim blockIdx = {0}, blockDim = {1}, gridDim = {1}, threadIdx = {0};
#define __global__
#define __device__ static
static inline float atomicAdd(float* p, float v) { float old = *p; *p += v; return old; }
static inline float sinpif(float x) { return (float)std::sin(M_PI * (double)x); }
static inline void sincospif(float x, float* s, float* c)
{
    *s = (float)std::sin(M_PI * (double)x);
    *c = (float)std::cos(M_PI * (double)x);
}
