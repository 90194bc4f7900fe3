// Training kernels for one core: float32 maps, channels last (N, H, W, C).
//
// Built where it is used (see library.py), for the processor it runs on. Every function takes
// plain pointers; none keeps anything. Sums over many pixels are of double precision from one tile
// of rows or picture to the next; those of a 3x3 convolution's weights are of single precision.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

namespace {

typedef float v16 __attribute__((vector_size(64)));
typedef float v8 __attribute__((vector_size(32)));
typedef float v4 __attribute__((vector_size(16)));

template <class T> T load(const float *p) {  // from any address
    T v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

template <class T> void store(float *p, T v) { std::memcpy(p, &v, sizeof v); }

// Calls f(first channel, a zero of the type that holds so many) until all channels have been.
template <class F> void over_channels(long chs, F f) {
    long c = 0;
    for (; c + 16 <= chs; c += 16) f(c, v16{});
    for (; c + 8 <= chs; c += 8) f(c, v8{});
    for (; c + 4 <= chs; c += 4) f(c, v4{});
    for (; c < chs; c++) f(c, 0.0f);
}

// Activations by number, and their slopes, of the value before them.

struct None {
    template <class T> static T value(T z) { return z; }
    template <class T> static T slope(T) { return 1.0f - T{}; }
};

struct Relu {
    template <class T> static T value(T z) { return z < 0.0f ? T{} : z; }  // nan stays nan
    template <class T> static T slope(T z) { return z > 0.0f ? 1.0f - T{} : T{}; }
};

struct Relu6 {
    template <class T> static T value(T z) {
        z = z < 0.0f ? T{} : z;
        return z > 6.0f ? 6.0f - T{} : z;
    }
    template <class T> static T slope(T z) {
        T low = z > 0.0f ? 1.0f - T{} : T{};
        return z < 6.0f ? low : T{};
    }
};

struct HardSwish {
    template <class T> static T value(T z) {
        return z * Relu6::value(z + 3.0f) * (1.0f / 6.0f);
    }
    template <class T> static T slope(T z) {
        T middle = z * (1.0f / 3.0f) + 0.5f;
        T low = z > -3.0f ? middle : T{};
        return z < 3.0f ? low : 1.0f - T{};
    }
};

const long TILE = 128, AT_A_TIME = 8;  // rows: of one float32 sum, and read side by side

// Calls f(row, channel, sum, other sum) for all of a map in the order of memory. What f adds up, a
// channel each, goes into float64 at the end of every tile.
template <class F> void two_sums(long rows, long chs, double *totals, double *more_totals, F f) {
    std::vector<float> sums(2 * chs);
    float *more = sums.data() + chs;
    for (long r0 = 0; r0 < rows; r0 += TILE) {
        long r1 = r0 + TILE < rows ? r0 + TILE : rows, r = r0;
        std::fill(sums.begin(), sums.end(), 0.0f);
        auto add = [&](long n) {
            over_channels(chs, [&](long c, auto zero) {
                using T = decltype(zero);
                T sum = load<T>(sums.data() + c), other = load<T>(more + c);
                for (long u = 0; u < n; u++) f(r + u, c, sum, other);
                store(sums.data() + c, sum);
                store(more + c, other);
            });
        };
        for (; r + AT_A_TIME <= r1; r += AT_A_TIME) add(AT_A_TIME);
        add(r1 - r);
        for (long c = 0; c < chs; c++) {
            totals[c] += sums[c];
            more_totals[c] += more[c];
        }
    }
}

// The mean of x (rows, chs) over rows, and one over the root of its variance plus eps.
void statistics(const float *x, long rows, long chs, double eps, float *mean, float *invstd,
                double *variance) {
    std::vector<double> totals(2 * chs);
    double *s = totals.data(), *q = s + chs;
    two_sums(rows, chs, s, q, [&](long r, long c, auto &sum, auto &squares) {
        using T = std::decay_t<decltype(sum)>;
        T d = load<T>(x + r * chs + c) - load<T>(x + c);  // from the first row: no cancellation
        sum += d;
        squares += d * d;
    });
    for (long c = 0; c < chs; c++) {
        double m = s[c] / rows, v = q[c] / rows - m * m;
        v = v < 0 ? 0 : v;
        mean[c] = float(x[c] + m);
        invstd[c] = float(1 / std::sqrt(v + eps));
        variance[c] = v;
    }
}

template <class Act>
void norm_forward(const float *x, long rows, long chs, const float *weight, const float *bias,
                  const float *mean, const float *invstd, float *y) {
    std::vector<float> scale(chs);
    for (long c = 0; c < chs; c++) scale[c] = invstd[c] * weight[c];
    for (long r = 0; r < rows; r++)
        over_channels(chs, [&](long c, auto zero) {
            using T = decltype(zero);
            T d = load<T>(x + r * chs + c) - load<T>(mean + c);
            T z = d * load<T>(scale.data() + c) + load<T>(bias + c);
            store(y + r * chs + c, Act::template value<T>(z));
        });
}

template <class Act>
void norm_backward(const float *dy, const float *x, long rows, long chs, const float *weight,
                   const float *bias, const float *mean, const float *invstd, float *dx,
                   float *dweight, float *dbias) {
    std::vector<double> totals(2 * chs);
    std::vector<float> factors(3 * chs);
    double *s = totals.data(), *q = s + chs;
    float *scale = factors.data(), *by_mean = scale + chs, *by_x = by_mean + chs;
    for (long c = 0; c < chs; c++) scale[c] = invstd[c] * weight[c];
    two_sums(rows, chs, s, q, [&](long r, long c, auto &sum, auto &products) {
        using T = std::decay_t<decltype(sum)>;
        T d = load<T>(x + r * chs + c) - load<T>(mean + c);
        T z = d * load<T>(scale + c) + load<T>(bias + c);
        T g = load<T>(dy + r * chs + c) * Act::template slope<T>(z);
        sum += g;
        products += g * d;
    });
    for (long c = 0; c < chs; c++) {
        dbias[c] = float(s[c]);
        dweight[c] = float(q[c] * invstd[c]);
        by_mean[c] = float(s[c] / rows);
        by_x[c] = float(q[c] / rows * invstd[c] * invstd[c]);
    }
    for (long r = 0; r < rows; r++)
        over_channels(chs, [&](long c, auto zero) {
            using T = decltype(zero);
            T d = load<T>(x + r * chs + c) - load<T>(mean + c), k = load<T>(scale + c);
            T g = load<T>(dy + r * chs + c) * Act::template slope<T>(d * k + load<T>(bias + c));
            store(dx + r * chs + c, k * (g - load<T>(by_mean + c) - d * load<T>(by_x + c)));
        });
}

template <class F> void with_activation(int act, F f) {
    if (act == 1) f(Relu{});
    else if (act == 2) f(Relu6{});
    else if (act == 3) f(HardSwish{});
    else f(None{});
}

struct Shape {  // of a depthwise convolution without dilation
    long n, h, w, chs, stride, pad, out_h, out_w;
};

const int AT_ONCE = 8;  // pixels of a row: as many sums that do not wait for each other

// The gradient of the input: a gather, tap by tap. taps: (K K, chs). The pixels w = stride t + q of
// a row meet the same taps j, each at dy's pixel t + (q + pad - j) / stride.
template <int K> void depthwise_dx(const Shape &s, const float *dy, const float *taps, float *dx) {
    for (long n = 0; n < s.n; n++)
        for (long h = 0; h < s.h; h++)
            over_channels(s.chs, [&](long c, auto zero) {
                using T = decltype(zero);
                float *to = dx + (n * s.h + h) * s.w * s.chs + c;
                for (long q = 0; q < s.stride; q++)
                    for (long t = 0; s.stride * t + q < s.w; t += AT_ONCE) {
                        T sum[AT_ONCE];
                        for (int u = 0; u < AT_ONCE; u++) sum[u] = zero;
                        for (int i = 0; i < K; i++) {
                            long up = h + s.pad - i, y = up / s.stride;
                            if (up < 0 || up % s.stride || y >= s.out_h) continue;
                            const float *row = dy + (n * s.out_h + y) * s.out_w * s.chs + c;
                            for (int j = 0; j < K; j++) {
                                long left = q + s.pad - j + s.stride * K;  // not below 0
                                if (left % s.stride) continue;
                                long x = t + left / s.stride - K;
                                T tap = load<T>(taps + (i * K + j) * s.chs + c);
                                if (x >= 0 && x + AT_ONCE <= s.out_w)
                                    for (int u = 0; u < AT_ONCE; u++)
                                        sum[u] += load<T>(row + (x + u) * s.chs) * tap;
                                else
                                    for (int u = 0; u < AT_ONCE; u++)
                                        if (x + u >= 0 && x + u < s.out_w)
                                            sum[u] += load<T>(row + (x + u) * s.chs) * tap;
                            }
                        }
                        for (int u = 0; u < AT_ONCE && s.stride * (t + u) + q < s.w; u++)
                            store(to + (s.stride * (t + u) + q) * s.chs, sum[u]);
                    }
            });
}

// The gradient of the taps (K K, chs).
template <int K>
void depthwise_dw(const Shape &s, const float *dy, const float *x, double *dtaps) {
    std::vector<float> picture(K * K * s.chs);
    for (long n = 0; n < s.n; n++) {
        std::fill(picture.begin(), picture.end(), 0.0f);
        for (long y = 0; y < s.out_h; y++)
            over_channels(s.chs, [&](long c, auto zero) {
                using T = decltype(zero);
                const float *out = dy + (n * s.out_h + y) * s.out_w * s.chs + c;
                for (int i = 0; i < K; i++) {
                    long h = y * s.stride + i - s.pad;
                    if (h < 0 || h >= s.h) continue;
                    const float *row = x + (n * s.h + h) * s.w * s.chs + c;
                    T sum[K];
                    for (int j = 0; j < K; j++) sum[j] = zero;
                    for (long o = 0; o < s.out_w; o++) {
                        T g = load<T>(out + o * s.chs);
                        long w = o * s.stride - s.pad;
                        if (w >= 0 && w + K <= s.w) {
                            for (int j = 0; j < K; j++)
                                sum[j] += g * load<T>(row + (w + j) * s.chs);
                        } else {
                            for (int j = 0; j < K; j++)
                                if (w + j >= 0 && w + j < s.w)
                                    sum[j] += g * load<T>(row + (w + j) * s.chs);
                        }
                    }
                    for (int j = 0; j < K; j++) {
                        float *to = picture.data() + (i * K + j) * s.chs + c;
                        store(to, load<T>(to) + sum[j]);
                    }
                }
            });
        for (long i = 0; i < long(picture.size()); i++) dtaps[i] += picture[i];
    }
}

template <int K>
void depthwise_backward(const Shape &s, const float *dy, const float *x, const float *weight,
                        float *dx, float *dweight) {
    std::vector<float> taps(K * K * s.chs);
    std::vector<double> dtaps(K * K * s.chs);
    for (long c = 0; c < s.chs; c++)
        for (int t = 0; t < K * K; t++) taps[t * s.chs + c] = weight[c * K * K + t];
    if (dx) depthwise_dx<K>(s, dy, taps.data(), dx);
    depthwise_dw<K>(s, dy, x, dtaps.data());
    for (long c = 0; c < s.chs; c++)
        for (int t = 0; t < K * K; t++) dweight[c * K * K + t] = float(dtaps[t * s.chs + c]);
}

// Dense 3x3 convolutions of stride 1 and padding 1 by Winograd's F(4x4, 3x3): a tile of 4x4 pixels
// takes 36 products a pair of channels instead of 144. Source: Lavin and Gray, CVPR 2016.
//
// A block of tiles is transformed into 36 matrices (tiles, chs), each is multiplied by the filters'
// (in, out) at its point, and the products are transformed back.

const int SIDE = 6, OUT = 4, POINTS = SIDE * SIDE;
const int ROWS = 8;     // of a matrix that are multiplied at once
const long BLOCK = 32;  // tiles, a multiple of ROWS

struct Dense {
    long n, h, w, in, out;
    long down() const { return (h + OUT - 1) / OUT; }  // tiles
    long across() const { return (w + OUT - 1) / OUT; }
    long tiles() const { return n * down() * across(); }
};

// A walk over tiles, picture by picture and row by row.
struct Tile {
    long n, row, column;
    Tile(const Dense &s, long number)
        : n(number / s.across() / s.down()), row(number / s.across() % s.down()),
          column(number % s.across()) {}
    void next(const Dense &s) {
        if (++column < s.across()) return;
        column = 0;
        if (++row == s.down()) row = 0, n++;
    }
};

// Between matrices a line more than they need: else all points of a tile share few lines of L1.
long points_apart(long chs) { return BLOCK * chs + 16; }

// The transforms of a line: of a map B^T d, of a gradient A g, of products A^T m, of a filter G g,
// and of a filter's gradient G^T u; `step` values lie between neighbours.

template <class T> void map_line(const T *d, int step, T *to, int to_step) {
    T d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step];
    T d5 = d[5 * step];
    T even = d4 - 4.0f * d2, odd = d3 - 4.0f * d1, far = d4 - d2, near = 2.0f * (d3 - d1);
    to[0] = 4.0f * d0 - 5.0f * d2 + d4;
    to[to_step] = even + odd;
    to[2 * to_step] = even - odd;
    to[3 * to_step] = far + near;
    to[4 * to_step] = far - near;
    to[5 * to_step] = 4.0f * d1 - 5.0f * d3 + d5;
}

template <class T> void gradient_line(const T *g, int step, T *to, int to_step) {
    T g0 = g[0], g1 = g[step], g2 = g[2 * step], g3 = g[3 * step];
    T even = g0 + g2, odd = g1 + g3, far = g0 + 4.0f * g2, near = 2.0f * g1 + 8.0f * g3;
    to[0] = g0;
    to[to_step] = even + odd;
    to[2 * to_step] = even - odd;
    to[3 * to_step] = far + near;
    to[4 * to_step] = far - near;
    to[5 * to_step] = g3;
}

template <class T> void product_line(const T *m, int step, T *to, int to_step) {
    T m1 = m[step], m2 = m[2 * step], m3 = m[3 * step], m4 = m[4 * step];
    T even = m1 + m2, odd = m1 - m2, far = m3 + m4, near = m3 - m4;
    to[0] = m[0] + even + far;
    to[to_step] = odd + 2.0f * near;
    to[2 * to_step] = even + 4.0f * far;
    to[3 * to_step] = odd + 8.0f * near + m[5 * step];
}

void filter_line(const float *g, int step, float *to, int to_step) {
    float a = g[0], b = g[step], c = g[2 * step];
    to[0] = a / 4;
    to[to_step] = -(a + b + c) / 6;
    to[2 * to_step] = -(a - b + c) / 6;
    to[3 * to_step] = (a + 2 * b + 4 * c) / 24;
    to[4 * to_step] = (a - 2 * b + 4 * c) / 24;
    to[5 * to_step] = c;
}

void filter_gradient_line(const float *u, int step, float *to, int to_step) {
    float u1 = u[step], u2 = u[2 * step], u3 = u[3 * step], u4 = u[4 * step];
    to[0] = u[0] / 4 - (u1 + u2) / 6 + (u3 + u4) / 24;
    to[to_step] = (u2 - u1) / 6 + (u3 - u4) / 12;
    to[2 * to_step] = -(u1 + u2) / 6 + (u3 + u4) / 6 + u[5 * step];
}

// A line transform both ways: from (N, N) to (M, M).
template <int N, int M, class T, class F> void both_ways(const T *from, T *to, F line) {
    T half[M * N];
    for (int j = 0; j < N; j++) line(from + j, N, half + j, N);        // down the columns
    for (int i = 0; i < M; i++) line(half + i * N, 1, to + i * M, 1);  // along the rows
}

// Maps (n, h, w, chs) -> points (POINTS, BLOCK, chs) of the tiles from `first` on.
void map_points(const float *x, const Dense &s, long chs, long first, long count, float *points) {
    const long apart = points_apart(chs);
    Tile tile(s, first);
    for (long p = 0; p < count; p++, tile.next(s)) {
        long top = OUT * tile.row - 1, left = OUT * tile.column - 1;
        const float *from = x + ((tile.n * s.h + top) * s.w + left) * chs;
        bool inner = top >= 0 && left >= 0 && top + SIDE <= s.h && left + SIDE <= s.w;
        for (long c = 0; c < chs; c += 16) {
            v16 a[POINTS], b[POINTS];
            for (int i = 0; i < SIDE; i++) {
                bool row = top + i >= 0 && top + i < s.h;
                for (int j = 0; j < SIDE; j++) {
                    bool inside = inner || (row && left + j >= 0 && left + j < s.w);
                    a[i * SIDE + j] = inside ? load<v16>(from + (i * s.w + j) * chs + c) : v16{};
                }
            }
            both_ways<SIDE, SIDE>(a, b, map_line<v16>);
            for (int t = 0; t < POINTS; t++) store(points + t * apart + p * chs + c, b[t]);
        }
    }
}

// Gradients (n, h, w, chs) -> points (POINTS, BLOCK, chs); tiles that are none count nothing.
void gradient_points(const float *dy, const Dense &s, long chs, long first, long count,
                     float *points) {
    const long apart = points_apart(chs);
    Tile tile(s, first);
    for (long p = 0; p < BLOCK; p++, tile.next(s)) {
        long top = OUT * tile.row, left = OUT * tile.column;
        const float *from = dy + ((tile.n * s.h + top) * s.w + left) * chs;
        for (long c = 0; c < chs; c += 16) {
            v16 a[OUT * OUT], b[POINTS];
            for (int i = 0; i < OUT; i++)
                for (int j = 0; j < OUT; j++) {
                    bool inside = p < count && top + i < s.h && left + j < s.w;
                    a[i * OUT + j] = inside ? load<v16>(from + (i * s.w + j) * chs + c) : v16{};
                }
            both_ways<OUT, SIDE>(a, b, gradient_line<v16>);
            for (int t = 0; t < POINTS; t++) store(points + t * apart + p * chs + c, b[t]);
        }
    }
}

// Filters (out, in, 3, 3) -> (POINTS, in, out), or turned round and (POINTS, out, in) for the
// gradient of the input.
void filter_points(const float *weight, long in, long out, bool turned, float *points) {
    for (long o = 0; o < out; o++)
        for (long i = 0; i < in; i++) {
            float g[9], u[POINTS];
            for (int k = 0; k < 9; k++) g[k] = weight[(o * in + i) * 9 + (turned ? 8 - k : k)];
            both_ways<3, SIDE>(g, u, filter_line);
            for (int t = 0; t < POINTS; t++)
                points[t * in * out + (turned ? o * in + i : i * out + o)] = u[t];
        }
}

// c (ROWS, V 16) += a b; of a the step from row to row and from product to product is given.
template <int V>
void multiply(const float *a, long a_row, long a_step, const float *b, long b_step, long steps,
              float *c, long c_row, bool add) {
    v16 sum[ROWS][V];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < V; v++) sum[r][v] = add ? load<v16>(c + r * c_row + 16 * v) : v16{};
    for (long k = 0; k < steps; k++) {
        v16 right[V];
        for (int v = 0; v < V; v++) right[v] = load<v16>(b + k * b_step + 16 * v);
        for (int r = 0; r < ROWS; r++) {
            v16 left = a[r * a_row + k * a_step] - v16{};  // in all lanes; x - 0 costs nothing
            for (int v = 0; v < V; v++) sum[r][v] += left * right[v];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < V; v++) store(c + r * c_row + 16 * v, sum[r][v]);
}

// For all columns of b and c, two vectors at a time where there are so many.
void multiply_all(const float *a, long a_row, long a_step, const float *b, long steps, float *c,
                  long columns, bool add) {
    long m = 0;
    for (; m + 32 <= columns; m += 32)
        multiply<2>(a, a_row, a_step, b + m, columns, steps, c + m, columns, add);
    if (m < columns) multiply<1>(a, a_row, a_step, b + m, columns, steps, c + m, columns, add);
}

// y (n, h, w, out) of x (n, h, w, in) and filters at points (POINTS, in, out).
void winograd(const float *x, const Dense &s, const float *filters, float *y) {
    const long apart = points_apart(s.out);
    std::vector<float> v(POINTS * points_apart(s.in)), m(POINTS * apart);
    for (long first = 0; first < s.tiles(); first += BLOCK) {
        long count = s.tiles() - first < BLOCK ? s.tiles() - first : BLOCK;
        map_points(x, s, s.in, first, count, v.data());
        for (int t = 0; t < POINTS; t++)
            for (long p = 0; p < count; p += ROWS)
                multiply_all(v.data() + t * points_apart(s.in) + p * s.in, s.in, 1,
                             filters + t * s.in * s.out, s.in, m.data() + t * apart + p * s.out,
                             s.out, false);
        Tile tile(s, first);
        for (long p = 0; p < count; p++, tile.next(s)) {
            long top = OUT * tile.row, left = OUT * tile.column;
            float *to = y + ((tile.n * s.h + top) * s.w + left) * s.out;
            for (long c = 0; c < s.out; c += 16) {
                v16 a[POINTS], b[OUT * OUT];
                for (int t = 0; t < POINTS; t++)
                    a[t] = load<v16>(m.data() + t * apart + p * s.out + c);
                both_ways<SIDE, OUT>(a, b, product_line<v16>);
                for (int i = 0; i < OUT && top + i < s.h; i++)
                    for (int j = 0; j < OUT && left + j < s.w; j++)
                        store(to + (i * s.w + j) * s.out + c, b[i * OUT + j]);
            }
        }
    }
}

void winograd_weight(const float *dy, const float *x, const Dense &s, float *dweight) {
    std::vector<float> v(POINTS * points_apart(s.in)), z(POINTS * points_apart(s.out));
    std::vector<float> u(POINTS * s.in * s.out);  // (POINTS, in, out)
    for (long first = 0; first < s.tiles(); first += BLOCK) {
        long count = s.tiles() - first < BLOCK ? s.tiles() - first : BLOCK;
        map_points(x, s, s.in, first, count, v.data());
        gradient_points(dy, s, s.out, first, count, z.data());
        for (int t = 0; t < POINTS; t++)
            for (long i = 0; i < s.in; i += ROWS)
                multiply_all(v.data() + t * points_apart(s.in) + i, 1, s.in,
                             z.data() + t * points_apart(s.out), BLOCK,
                             u.data() + (t * s.in + i) * s.out, s.out, true);
    }
    for (long o = 0; o < s.out; o++)
        for (long i = 0; i < s.in; i++) {
            float a[POINTS];
            for (int t = 0; t < POINTS; t++) a[t] = u[(t * s.in + i) * s.out + o];
            both_ways<SIDE, 3>(a, dweight + (o * s.in + i) * 9, filter_gradient_line);
        }
}

}  // namespace

extern "C" {

// x, y: (rows, chs). act: 0 none, 1 ReLU, 2 ReLU6, 3 hard swish. variance: biased.
void nasattn_norm_forward(const float *x, long rows, long chs, const float *weight,
                          const float *bias, double eps, int act, float *y, float *mean,
                          float *invstd, double *variance) {
    statistics(x, rows, chs, eps, mean, invstd, variance);
    with_activation(act, [&](auto a) {
        norm_forward<decltype(a)>(x, rows, chs, weight, bias, mean, invstd, y);
    });
}

void nasattn_norm_backward(const float *dy, const float *x, long rows, long chs,
                           const float *weight, const float *bias, const float *mean,
                           const float *invstd, int act, float *dx, float *dweight, float *dbias) {
    with_activation(act, [&](auto a) {
        norm_backward<decltype(a)>(dy, x, rows, chs, weight, bias, mean, invstd, dx, dweight,
                                   dbias);
    });
}

// x: (n, h, w, chs), dy: (n, out_h, out_w, chs), weight: (chs, 1, kernel, kernel), kernel 3, 5, 7.
// dx may be null: the gradient of the input is not wanted then.
void nasattn_depthwise_backward(const float *dy, const float *x, const float *weight, long n,
                                long h, long w, long chs, long kernel, long stride, float *dx,
                                float *dweight) {
    long pad = kernel / 2;
    Shape s{n, h, w, chs, stride, pad, (h - 1) / stride + 1, (w - 1) / stride + 1};
    if (kernel == 3) depthwise_backward<3>(s, dy, x, weight, dx, dweight);
    else if (kernel == 5) depthwise_backward<5>(s, dy, x, weight, dx, dweight);
    else depthwise_backward<7>(s, dy, x, weight, dx, dweight);
}

// x: (n, h, w, in), weight: (out, in, 3, 3), y: (n, h, w, out); in and out multiples of 16.
// turned: y is the gradient of a convolution's input, x that of its output; `in` is the channels
// of x, and weight (in, out, 3, 3).
void nasattn_dense_forward(const float *x, const float *weight, long n, long h, long w, long in,
                           long out, int turned, float *y) {
    std::vector<float> filters(POINTS * in * out);
    if (turned) filter_points(weight, out, in, true, filters.data());
    else filter_points(weight, in, out, false, filters.data());
    winograd(x, Dense{n, h, w, in, out}, filters.data(), y);
}

// The gradient of weight (out, in, 3, 3), of x (n, h, w, in) and dy (n, h, w, out).
void nasattn_dense_weight(const float *dy, const float *x, long n, long h, long w, long in,
                          long out, float *dweight) {
    winograd_weight(dy, x, Dense{n, h, w, in, out}, dweight);
}
}
