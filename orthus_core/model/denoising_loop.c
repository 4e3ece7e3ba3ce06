/* The denoising steps of a patch on a CPU, for few rows: what `DenoisingHead.step`, guidance and a
 * linear solver's step compute, for many steps in one call. compiled_loop.py describes the
 * arguments, compiles this file and calls it.
 *
 * A product of few rows is bound by how fast its weight streams from the cache, and the operations
 * between products by the cost of calling them. Here a weight lies in panels of PANEL outputs, read
 * from front to back, and everything between two products happens while the values are in registers
 * or in the first cache. Each value is computed by one thread in one order, so results are equal to
 * the bit for any number of threads, rows and images.
 *
 * Vectors are those of GCC and Clang, so the same text serves any processor.
 *
 * Legend: W width, C feature channels; "padded" sizes are rounded up to whole panels.
 */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

/* Accumulators of four rows and a panel fit into the registers. */
#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4 };
#elif defined(__AVX__)
enum { LANES = 8, VECTORS = 2 };
#else
enum { LANES = 4, VECTORS = 4 };
#endif
enum { PANEL = LANES * VECTORS, GROUP = 4, MOST_ROWS = 8, MOST_STATES = 8 };
/* How far ahead of its use a weight is fetched, in floats. */
enum { AHEAD = 256 };

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

/* Weights [outputs / PANEL, inputs, PANEL] and biases, padded with zeros. */
typedef struct {
    const float *weight, *bias;
} Linear;

/* `norm` has no values in the final layer. Norms are padded with zeros. */
typedef struct {
    const float *norm_weight, *norm_bias;
    Linear first, second;
} Block;

typedef struct {
    int64_t channels, width, blocks;
    float epsilon;
    Linear input, output;
    const Block *block;
} Head;

typedef struct {
    int64_t steps, rows, images, states;
    const float *amounts; /* [steps, rows, (3 blocks + 2) W] */
    const int64_t *owner; /* [rows] */
    const float *mix;     /* [images, rows] */
    const float *updates; /* [steps, states, states + 1] */
    float *known;         /* [states, images, C padded], changed in place */
    float *scratch;       /* [2 + threads, rows, W padded] */
} Run;

int64_t orthus_panel(void) { return PANEL; }
int64_t orthus_most_rows(void) { return MOST_ROWS; }
int64_t orthus_most_states(void) { return MOST_STATES; }

static inline Vector all(float value) { return value - (Vector){0}; }
static inline Vector load(const float *from) { return *(const Unaligned *)from; }
static inline void store(float *to, Vector value) { *(Unaligned *)to = value; }

/* The values that are there, and zeros behind them. */
static inline Vector load_some(const float *from, int64_t count) {
    if (count >= LANES) return load(from);
    Vector some = {0};
    if (count > 0) memcpy(&some, from, (size_t)count * sizeof(float));
    return some;
}

static inline Vector where(Integers chosen, Vector yes, Vector no) {
    return (Vector)(((Integers)yes & chosen) | ((Integers)no & ~chosen));
}

/* e^x = 2^n e^r with |r| <= ln(2) / 2, and Cephes' polynomial for e^r; 1e-7 of the value off. */
static inline Vector exponential(Vector x) {
    x = where(x < all(-87.0f), all(-87.0f), x);
    x = where(x > all(88.0f), all(88.0f), x);
    const float whole = 12582912.0f; /* 1.5 * 2^23: a sum with it has no bits for fractions */
    Vector n = (x * 1.44269504f + whole) - whole;
    Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vector p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (Vector)((__builtin_convertvector(n, Integers) + 127) << 23);
}

static inline Vector silu(Vector x) { return x / (exponential(-x) + 1.0f); }

/* sums[row] = bias + x[row] weight, for one panel and `rows` rows, a constant for the compiler. */
static inline __attribute__((always_inline)) void panel_of_rows(
    int rows, const float *weight, const float *bias, const float *x, int64_t inputs,
    int64_t stride, Vector sums[GROUP][VECTORS]) {
    Vector sum[GROUP][VECTORS];
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < VECTORS; v++) sum[row][v] = load(bias + v * LANES);
    for (int64_t i = 0; i < inputs; i++, weight += PANEL) {
        for (int v = 0; v < VECTORS; v++) __builtin_prefetch(weight + AHEAD + v * LANES);
        for (int row = 0; row < rows; row++)
            for (int v = 0; v < VECTORS; v++)
                sum[row][v] += x[row * stride + i] * load(weight + v * LANES);
    }
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < VECTORS; v++) sums[row][v] = sum[row][v];
}

/* The product of all rows with one panel of a layer. */
static void product(Linear layer, int64_t panel, const float *x, int64_t rows, int64_t inputs,
                    int64_t stride, Vector sums[MOST_ROWS][VECTORS]) {
    const float *weight = layer.weight + panel * inputs * PANEL;
    const float *bias = layer.bias + panel * PANEL;
    for (int64_t row = 0; row < rows; row += GROUP) {
        const float *from = x + row * stride;
        switch (rows - row) {
            case 1: panel_of_rows(1, weight, bias, from, inputs, stride, sums + row); break;
            case 2: panel_of_rows(2, weight, bias, from, inputs, stride, sums + row); break;
            case 3: panel_of_rows(3, weight, bias, from, inputs, stride, sums + row); break;
            default: panel_of_rows(GROUP, weight, bias, from, inputs, stride, sums + row);
        }
    }
}

static inline float total(Vector values) {
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += values[lane];
    return sum;
}

/* y = norm(x) scale + shift of one row; x is zero where it is padded, and so is y. */
static void modulated_norm(const Head *head, const float *weight, const float *bias,
                           const float *x, const float *shift, const float *scale, float *y) {
    const int64_t width = head->width;
    Vector ones = all(1), sum = {0}, squares = {0};
    for (int64_t at = 0; at < width; at += LANES) sum += load(x + at);
    const float mean = total(sum) / (float)width;
    for (int64_t at = 0; at < width; at += LANES) {
        Vector apart = load(x + at) - mean;
        if (width - at < LANES) apart *= load_some((const float *)&ones, width - at);
        squares += apart * apart;
    }
    const float inverse = 1.0f / sqrtf(total(squares) / (float)width + head->epsilon);
    for (int64_t at = 0; at < width; at += LANES) {
        Vector normed = (load(x + at) - mean) * inverse;
        if (weight) normed = normed * load(weight + at) + load(bias + at);
        store(y + at, normed * load_some(scale + at, width - at) +
                          load_some(shift + at, width - at));
    }
}

/* Guidance and the solver's step, for the channels of one panel. */
static void advance(const Run *run, int64_t step, int64_t padded, int64_t at,
                    Vector predictions[MOST_ROWS][VECTORS]) {
    const int64_t states = run->states;
    const float *updates = run->updates + step * states * (states + 1);
    for (int64_t image = 0; image < run->images; image++)
        for (int v = 0; v < VECTORS; v++) {
            Vector prediction = {0}, before[MOST_STATES];
            for (int64_t row = 0; row < run->rows; row++) {
                const float share = run->mix[image * run->rows + row];
                if (share != 0) prediction += share * predictions[row][v];
            }
            float *known = run->known + image * padded + at + v * LANES;
            for (int64_t state = 0; state < states; state++)
                before[state] = load(known + state * run->images * padded);
            for (int64_t state = 0; state < states; state++) {
                const float *weights = updates + state * (states + 1);
                Vector sum = weights[states] * prediction;
                for (int64_t of = 0; of < states; of++) sum += weights[of] * before[of];
                store(known + state * run->images * padded, sum);
            }
        }
}

/* All steps; thread `me` of `threads` computes its share of each layer's panels. */
static void steps_of_thread(const Head *head, const Run *run, int64_t me, int64_t threads) {
    const int64_t width = head->width, rows = run->rows;
    const int64_t panels = (width + PANEL - 1) / PANEL, stride = panels * PANEL;
    const int64_t out_panels = (head->channels + PANEL - 1) / PANEL, padded = out_panels * PANEL;
    const int64_t begin = panels * me / threads, end = panels * (me + 1) / threads;
    const int64_t out_begin = out_panels * me / threads, out_end = out_panels * (me + 1) / threads;
    const int64_t row_amounts = (3 * head->blocks + 2) * width;
    float *x = run->scratch, *inner = x + rows * stride, *y = inner + (me + 1) * rows * stride;
    Vector sums[MOST_ROWS][VECTORS];
    for (int64_t step = 0; step < run->steps; step++) {
        const float *amounts = run->amounts + step * rows * row_amounts;
        /* 1. The noisy feature; rows of the same image share it. */
        for (int64_t panel = begin; panel < end; panel++)
            for (int64_t image = 0; image < run->images; image++) {
                product(head->input, panel, run->known + image * padded, 1, head->channels,
                        padded, sums);
                for (int64_t row = 0; row < rows; row++)
                    if (run->owner[row] == image)
                        for (int v = 0; v < VECTORS; v++)
                            store(x + row * stride + panel * PANEL + v * LANES, sums[0][v]);
            }
#pragma omp barrier
        /* 2. The blocks. Each thread makes all of y for itself, which costs less than waiting. */
        for (int64_t number = 0; number < head->blocks; number++, amounts += 3 * width) {
            const Block *block = head->block + number;
            for (int64_t row = 0; row < rows; row++) {
                const float *shift = amounts + row * row_amounts;
                modulated_norm(head, block->norm_weight, block->norm_bias, x + row * stride, shift,
                               shift + width, y + row * stride);
            }
            for (int64_t panel = begin; panel < end; panel++) {
                product(block->first, panel, y, rows, width, stride, sums);
                for (int64_t row = 0; row < rows; row++)
                    for (int v = 0; v < VECTORS; v++)
                        store(inner + row * stride + panel * PANEL + v * LANES, silu(sums[row][v]));
            }
#pragma omp barrier
            for (int64_t panel = begin; panel < end; panel++) {
                product(block->second, panel, inner, rows, width, stride, sums);
                for (int64_t row = 0; row < rows; row++)
                    for (int v = 0; v < VECTORS; v++) {
                        const int64_t at = panel * PANEL + v * LANES;
                        const float *gate = amounts + row * row_amounts + 2 * width + at;
                        float *to = x + row * stride + at;
                        store(to, load(to) + load_some(gate, width - at) * sums[row][v]);
                    }
            }
#pragma omp barrier
        }
        /* 3. The final layer, and the next state of the same channels. */
        for (int64_t row = 0; row < rows; row++) {
            const float *shift = amounts + row * row_amounts;
            modulated_norm(head, 0, 0, x + row * stride, shift, shift + width, y + row * stride);
        }
        for (int64_t panel = out_begin; panel < out_end; panel++) {
            product(head->output, panel, y, rows, width, stride, sums);
            advance(run, step, padded, panel * PANEL, sums);
        }
#pragma omp barrier
    }
}

void orthus_denoise(const Head *head, const Run *run, int threads) {
#pragma omp parallel num_threads(threads)
    steps_of_thread(head, run, omp_get_thread_num(), omp_get_num_threads());
}
