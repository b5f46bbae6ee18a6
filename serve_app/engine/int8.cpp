// What int8 products need around them, each in one pass over memory, for CPUs. Compiled by native_build.py where the model runs.
//
// Rows are tokens, `n` wide and `ld` elements apart; the int8 matrix has no gaps. Computed in float32 whatever the dtype.
#include <cstdint>
#include <cstring>

namespace {

using Index = int64_t;
using BFloat16 = uint16_t;

inline float bits(uint32_t u) { float f; std::memcpy(&f, &u, 4); return f; }
inline uint32_t bits(float f) { uint32_t u; std::memcpy(&u, &f, 4); return u; }
inline float load(float x) { return x; }
inline float load(BFloat16 x) { return bits(uint32_t(x) << 16); }
inline void store(float x, float& to) { to = x; }
inline void store(float x, BFloat16& to) {  // to the nearest, ties to even; NaN stays NaN
  const uint32_t u = bits(x), rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  to = BFloat16((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded);
}

// The largest absolute value, by the bits: as integers they have the order of the numbers, and infinity and NaN are above all of them.
inline float largest(const float* x, Index n) {
  uint32_t most = 0;
#pragma omp simd reduction(max : most)
  for (Index j = 0; j < n; j++) {
    const uint32_t one = bits(x[j]) & 0x7fffffffu;
    most = one > most ? one : most;
  }
  return bits(most);
}
inline float largest(const BFloat16* x, Index n) {
  uint16_t most = 0;
#pragma omp simd reduction(max : most)
  for (Index j = 0; j < n; j++) {
    const uint16_t one = x[j] & 0x7fffu;
    most = one > most ? one : most;
  }
  return load(most);
}

// The largest value of a row becomes `largest_step`, and 0 `zero`.
template <class T>
void quantise(const T* x, Index ldx, int8_t* out, float* scales, Index rows, Index n, int largest_step, int zero, int threads) {
  const float steps = float(largest_step);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index i = 0; i < rows; i++) {
    const T* row = x + i * ldx;
    int8_t* to = out + i * n;
    const float most = largest(row, n);
    const float divisor = most < 1e-28f ? 1e-28f : most;  // NaN stays NaN
    const float factor = steps / divisor;
    scales[i] = divisor / steps;
#pragma omp simd
    for (Index j = 0; j < n; j++)  // to the nearest, ties to even: what is added leaves the integer in the lowest bits
      to[j] = int8_t(int32_t(bits(load(row[j]) * factor + 12582912.0f)) + zero);
  }
}

template <class T>
void scale(const T* x, Index ldx, const float* scales, T* out, Index ldo, Index rows, Index n, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index i = 0; i < rows; i++) {
    const T* row = x + i * ldx;
    T* to = out + i * ldo;
    const float by = scales[i];
#pragma omp simd
    for (Index j = 0; j < n; j++) store(load(row[j]) * by, to[j]);
  }
}

template <class T>
void add(const T* x, Index ldx, const float* scales, T* sums, Index lds, Index rows, Index n, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index i = 0; i < rows; i++) {
    const T* row = x + i * ldx;
    T* to = sums + i * lds;
    const float by = scales[i];
#pragma omp simd
    for (Index j = 0; j < n; j++) store(load(to[j]) + load(row[j]) * by, to[j]);
  }
}

}  // namespace

#define FOR(T, SUFFIX)                                                                                                          \
  extern "C" void quantise_##SUFFIX(const T* x, Index ldx, int8_t* out, float* scales, Index rows, Index n, int largest_step,   \
                                    int zero, int threads) {                                                                    \
    quantise(x, ldx, out, scales, rows, n, largest_step, zero, threads);                                                        \
  }                                                                                                                             \
  extern "C" void scale_##SUFFIX(const T* x, Index ldx, const float* scales, T* out, Index ldo, Index rows, Index n,            \
                                 int threads) {                                                                                 \
    scale(x, ldx, scales, out, ldo, rows, n, threads);                                                                          \
  }                                                                                                                             \
  extern "C" void add_##SUFFIX(const T* x, Index ldx, const float* scales, T* sums, Index lds, Index rows, Index n,             \
                               int threads) {                                                                                   \
    add(x, ldx, scales, sums, lds, rows, n, threads);                                                                           \
  }
FOR(float, float32)
FOR(BFloat16, bfloat16)
