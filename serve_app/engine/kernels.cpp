// The elementwise parts of a layer, each in one pass over memory, for CPUs. Compiled by native_build.py where the model runs.
//
// Rows are tokens, `n` wide and `ld` elements apart. Computed in float32 whatever the dtype. No -ffast-math: NaN and infinity
// come out as such, so that a broken vector is seen.
#include <cmath>
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

// e^x to 2 units in the last place, in a form that vectorises: 2^k by its bits, the rest by the polynomial of Cephes' expf.
inline float exponential(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f, k = shifted - 12582912.0f;
  const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * bits((bits(shifted) << 23) + 0x3f800000u);
}

template <class T> inline float inverse_rms(const T* x, Index n, float eps) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (Index j = 0; j < n; j++) sum += load(x[j]) * load(x[j]);
  return 1.0f / std::sqrt(sum / float(n) + eps);
}

template <class T>
void norm(const T* x, Index ldx, const T* weight, float eps, T* out, Index ldo, Index rows, Index n, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index i = 0; i < rows; i++) {
    const T* row = x + i * ldx;
    T* to = out + i * ldo;
    const float scale = inverse_rms(row, n, eps);
#pragma omp simd
    for (Index j = 0; j < n; j++) store(load(row[j]) * scale * load(weight[j]), to[j]);
  }
}

// Normalise each head and rotate it: its first half pairs with its second. `ldw` is 0 for one weight for all heads.
template <class T>
void turn(T* x, Index ldx, Index ldh, const T* weight, Index ldw, float eps, const T* cosines, const T* sines, Index rows,
          Index heads, Index dim, int threads) {
  const Index half = dim / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index i = 0; i < rows; i++) {
    const T *cosine = cosines + i * half, *sine = sines + i * half;
    for (Index h = 0; h < heads; h++) {
      T *first = x + i * ldx + h * ldh, *second = first + half;
      const T *wf = weight + h * ldw, *ws = wf + half;
      const float scale = inverse_rms(first, dim, eps);
#pragma omp simd
      for (Index j = 0; j < half; j++) {
        const float a = load(first[j]) * scale * load(wf[j]), b = load(second[j]) * scale * load(ws[j]);
        const float c = load(cosine[j]), s = load(sine[j]);
        store(a * c - b * s, first[j]);
        store(b * c + a * s, second[j]);
      }
    }
  }
}

template <class T> inline float gated(T gate, T up) {
  const float g = load(gate);
  return g / (1.0f + exponential(-g)) * load(up);
}

template <class T>
void gate(const T* x, Index ldx, T* out, Index ldo, Index rows, Index n, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Index i = 0; i < rows; i++) {
    const T *row = x + i * ldx, *up = row + n;
    T* to = out + i * ldo;
#pragma omp simd
    for (Index j = 0; j < n; j++) store(gated(row[j], up[j]), to[j]);
  }
}

}  // namespace

#define FOR(T, SUFFIX)                                                                                                          \
  extern "C" void norm_##SUFFIX(const T* x, Index ldx, const T* weight, float eps, T* out, Index ldo, Index rows, Index n,      \
                                int threads) {                                                                                  \
    norm(x, ldx, weight, eps, out, ldo, rows, n, threads);                                                                      \
  }                                                                                                                             \
  extern "C" void turn_##SUFFIX(T* x, Index ldx, Index ldh, const T* weight, Index ldw, float eps, const T* cosines,            \
                                const T* sines, Index rows, Index heads, Index dim, int threads) {                              \
    turn(x, ldx, ldh, weight, ldw, eps, cosines, sines, rows, heads, dim, threads);                                             \
  }                                                                                                                             \
  extern "C" void gate_##SUFFIX(const T* x, Index ldx, T* out, Index ldo, Index rows, Index n, int threads) {                   \
    gate(x, ldx, out, ldo, rows, n, threads);                                                                                   \
  }
FOR(float, float32)
FOR(BFloat16, bfloat16)
