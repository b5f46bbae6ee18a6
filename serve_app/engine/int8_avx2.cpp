// Products of 8-bit weights and 7-bit activations, exact, for CPUs with AVX2 and nothing newer. Compiled by native_build.py where
// the model runs.
//
// AVX2 multiplies unsigned bytes by signed ones and adds pairs in 16 bits that saturate (vpmaddubsw). With activations of 1 to 127,
// which stand for -63 to 63, no pair does: 2 * 127 * 128 < 2^15. Widening each sum of a pair to 32 bits would cost as much as the
// product, so two or four of them are added in 16 bits first. Weights of one sign and large may then be too much. Whether they are
// is known when the weights are laid out: eight outputs by eight inputs are a step. Two neighbouring steps for which four pairs
// always fit come first, then single steps for which two pairs do, and last the others. Of those 64 times the weights is subtracted,
// which leaves what the activations stand for, at most 4 * 63 * 128 < 2^15, so that the 16 bits, which wrap, end up right.
//
// A panel is 8 outputs wide: for each step 64 bytes, twice 8 outputs by 4 inputs. Activations are laid out in blocks of 8 rows: for
// each step 64 bytes, 8 rows by 8 inputs. What is missing to a whole panel, block or step is zero.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

using Index = int64_t;
using BFloat16 = uint16_t;
constexpr Index LANES = 8, STEP = 8, BYTES = LANES * STEP, CHUNK = 128;  // of rows, which a thread's cache holds beside a panel
constexpr int LARGEST = 127, ZERO = 64;                                  // of activations: the largest, and what stands for 0

inline __m256i four(const uint8_t* p) { int32_t bytes; std::memcpy(&bytes, p, 4); return _mm256_set1_epi32(bytes); }
inline __m256i load(const int8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline __m256i load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline __m256 load(const float* p) { return _mm256_loadu_ps(p); }
inline __m256 load(const BFloat16* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
inline void store(__m256 x, float* to) { _mm256_storeu_ps(to, x); }
inline void store(__m256 x, BFloat16* to) {  // to the nearest, ties to even; NaN stays NaN
  const __m256i u = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i kept = _mm256_blendv_epi8(rounded, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
  const __m256i halves = _mm256_packus_epi32(_mm256_srli_epi32(kept, 16), _mm256_setzero_si256());
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(_mm256_permute4x64_epi64(halves, 0x08)));
}

// `at` has which step of the inputs each step of the weights is. The first `twice` are pairs of neighbours, those up to `clean` need
// nothing subtracted; `base` is what all these count too much.
struct Panel {
  const int8_t* weights;
  const uint16_t* at;
  Index twice, clean, steps;
  const int32_t* base;
  const float* scales;
};

// Two pairs of products, and their sum in 16 bits: of the inputs in `a` with `first`, and in `b` with `second`.
inline __m256i pairs(__m256i a, __m256i b, __m256i first, __m256i second) {
  return _mm256_add_epi16(_mm256_maddubs_epi16(a, first), _mm256_maddubs_epi16(b, second));
}

template <int R, class T>
void tile(const uint8_t* block, const float* scales, const Panel& panel, T* out, Index ldo, Index columns, bool add) {
  const __m256i ones = _mm256_set1_epi16(1), zero = _mm256_set1_epi8(ZERO);
  __m256i sums[R];  // in registers, which takes loops over it without a counter
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) sums[r] = _mm256_setzero_si256();
  const int8_t* weights = panel.weights;
  Index s = 0;
  for (; s < panel.twice; s += 2, weights += 2 * BYTES) {
    const uint8_t* from = block + BYTES * panel.at[s];
    const __m256i w[] = {load(weights), load(weights + 32), load(weights + 64), load(weights + 96)};
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const uint8_t *near = from + STEP * r, *far = near + BYTES;
      const __m256i sum = _mm256_add_epi16(pairs(four(near), four(near + 4), w[0], w[1]), pairs(four(far), four(far + 4), w[2], w[3]));
      sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(sum, ones));
    }
  }
  for (; s < panel.clean; s++, weights += BYTES) {
    const uint8_t* from = block + BYTES * panel.at[s];
    const __m256i first = load(weights), second = load(weights + 32);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m256i sum = pairs(four(from + STEP * r), four(from + STEP * r + 4), first, second);
      sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(sum, ones));
    }
  }
  for (; s < panel.steps; s++, weights += BYTES) {
    const uint8_t* from = block + BYTES * panel.at[s];
    const __m256i first = load(weights), second = load(weights + 32), much = pairs(zero, zero, first, second);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const __m256i sum = pairs(four(from + STEP * r), four(from + STEP * r + 4), first, second);
      sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(_mm256_sub_epi16(sum, much), ones));
    }
  }
  const __m256i base = load(panel.base);
  const __m256 by = load(panel.scales);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(sums[r], base)), by);
    product = _mm256_mul_ps(product, _mm256_set1_ps(scales[r]));
    T* to = out + r * ldo;
    T some[LANES] = {};
    if (columns < LANES) {
      std::memcpy(some, to, sizeof(T) * columns);
      to = some;
    }
    store(add ? _mm256_add_ps(load(to), product) : product, to);
    if (columns < LANES) std::memcpy(out + r * ldo, some, sizeof(T) * columns);
  }
}

template <class T>
void multiply(const uint8_t* x, const float* scales, Index rows, Index n, uint8_t* blocks, const int8_t* weights,
              const uint16_t* at, const int32_t* counts, const int32_t* base, const float* weight_scales, Index outputs, T* out,
              Index ldo, bool add, int threads) {
  using Tile = void (*)(const uint8_t*, const float*, const Panel&, T*, Index, Index, bool);
  static constexpr Tile tiles[] = {nullptr,    tile<1, T>, tile<2, T>, tile<3, T>, tile<4, T>,
                                   tile<5, T>, tile<6, T>, tile<7, T>, tile<8, T>};
  const Index steps = (n + STEP - 1) / STEP, panels = (outputs + LANES - 1) / LANES;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (Index i = 0; i < rows; i++) {
      uint8_t* to = blocks + (i / LANES) * steps * BYTES + (i % LANES) * STEP;
      const uint8_t* row = x + i * n;
      for (Index s = 0; s < n / STEP; s++) std::memcpy(to + s * BYTES, row + s * STEP, STEP);
      if (n % STEP) {
        std::memset(to + (steps - 1) * BYTES, ZERO, STEP);
        std::memcpy(to + (steps - 1) * BYTES, row + n - n % STEP, n % STEP);
      }
    }
    for (Index chunk = 0; chunk < rows; chunk += CHUNK) {
      const Index end = chunk + CHUNK < rows ? chunk + CHUNK : rows;
#pragma omp for schedule(static) nowait
      for (Index p = 0; p < panels; p++) {
        const Index column = LANES * p, columns = outputs - column < LANES ? outputs - column : LANES;
        const Panel panel = {weights + p * steps * BYTES, at + p * steps,  counts[2 * p],          counts[2 * p + 1],
                             steps,                       base + column, weight_scales + column};
        for (Index i = chunk; i < end; i += LANES) {
          const Index count = end - i < LANES ? end - i : LANES;
          tiles[count](blocks + i / LANES * steps * BYTES, scales + i, panel, out + i * ldo + column, ldo, columns, add);
        }
      }
    }
  }
}

// Whether no activations can make the pairs of so many steps of these columns overflow. `row` is that of the first column.
bool is_clean(const int8_t* row, Index n, Index input, Index count, Index columns) {
  for (Index c = 0; c < columns; c++, row += n)
    for (Index half = 0; half < 4; half += 2) {
      int above = 0, below = 0;
      for (Index i = 0; i < 4 * count; i++) {
        const Index k = input + half + i % 2 + i / 2 * 4;
        const int weight = k < n ? row[k] : 0;
        (weight > 0 ? above : below) += weight;
      }
      if (LARGEST * above > INT16_MAX || LARGEST * below < INT16_MIN) return false;
    }
  return true;
}

}  // namespace

// `weights` [outputs, n] without gaps to panels, with what `Panel` says of `at` and `base`; `counts` has `twice` and `clean` of each.
extern "C" void lay_out(const int8_t* weights, Index outputs, Index n, int8_t* panels, uint16_t* at, int32_t* counts, int32_t* base) {
  const Index steps = (n + STEP - 1) / STEP;
  for (Index column = 0; column < outputs; column += LANES, at += steps, panels += steps * BYTES, counts += 2, base += LANES) {
    const Index columns = outputs - column < LANES ? outputs - column : LANES;
    const int8_t* rows = weights + column * n;
    Index front = 0, back = steps;
    for (Index s = 0; s + 1 < steps; s += 2)
      if (is_clean(rows, n, s * STEP, 2, columns)) at[front++] = uint16_t(s), at[front++] = uint16_t(s + 1);
    counts[0] = int32_t(front);
    for (Index s = 0, done = 0; s < steps; s++)
      if (done < counts[0] && at[done] == s) done++;
      else if (is_clean(rows, n, s * STEP, 1, columns)) at[front++] = uint16_t(s);
      else at[--back] = uint16_t(s);
    counts[1] = int32_t(front);
    std::memset(panels, 0, steps * BYTES);
    std::memset(base, 0, LANES * sizeof(int32_t));
    for (Index s = 0; s < steps; s++)
      for (Index c = 0; c < columns; c++)
        for (Index k = 0, input = at[s] * STEP; k < STEP && input < n; k++, input++) {
          panels[s * BYTES + (k / 4) * 32 + c * 4 + k % 4] = rows[c * n + input];
          if (s < front) base[c] += ZERO * rows[c * n + input];
        }
  }
}

#define FOR(T, SUFFIX)                                                                                                        \
  extern "C" void multiply_##SUFFIX(const uint8_t* x, const float* scales, Index rows, Index n, uint8_t* blocks,              \
                                    const int8_t* weights, const uint16_t* at, const int32_t* counts, const int32_t* base,    \
                                    const float* weight_scales, Index outputs, T* out, Index ldo, int add, int threads) {     \
    multiply(x, scales, rows, n, blocks, weights, at, counts, base, weight_scales, outputs, out, ldo, add != 0, threads);     \
  }
FOR(float, float32)
FOR(BFloat16, bfloat16)
