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

// The lanes of a vector brought down to one value by `join`.
template <class J> float folded(float v, J) { return v; }
template <class J> float folded(v4 v, J join) { return join(join(v[0], v[1]), join(v[2], v[3])); }

template <class Half, class T, class J> float folded_in_half(T v, J join) {
    Half halves[2];
    std::memcpy(halves, &v, sizeof v);
    return folded(join(halves[0], halves[1]), join);
}

template <class J> float folded(v8 v, J join) { return folded_in_half<v4>(v, join); }
template <class J> float folded(v16 v, J join) { return folded_in_half<v8>(v, join); }

// The values f(channel, zero) of a pixel brought down to one.
template <class F, class J> float along(long chs, float joined, F f, J join) {
    long c = 0;
    if (chs >= 16) {
        v16 all = f(0, v16{});
        for (c = 16; c + 16 <= chs; c += 16) all = join(all, f(c, v16{}));
        joined = join(joined, folded(all, join));
    }
    over_channels(chs - c, [&](long rest, auto zero) {
        joined = join(joined, folded(f(c + rest, zero), join));
    });
    return joined;
}

const auto sum_of = [](auto a, auto b) { return a + b; };

const auto top_of = [](auto a, auto b) {  // nan wins, as in torch
    auto top = b > a ? b : a;
    return b == b ? top : b;
};

// The gradient of the highest channel of a pixel: equal shares to all that are as high.
void top_backward(const float *dtop, const float *top, const float *x, long rows, long chs,
                  float *dx) {
    for (long r = 0; r < rows; r++) {
        const float *pixel = x + r * chs;
        auto is_top = [&](long c, auto zero) {
            using T = decltype(zero);
            return load<T>(pixel + c) == top[r] ? 1.0f - zero : zero;
        };
        float share = dtop[r] / along(chs, 0.0f, is_top, sum_of);
        over_channels(chs, [&](long c, auto zero) {
            store(dx + r * chs + c, is_top(c, zero) * share);
        });
    }
}

// Gradients of x * gate, a gate for each channel of a picture (pictures, chs).
void channel_gate_backward(const float *dy, const float *x, const float *gate, long pictures,
                           long pixels, long chs, float *dx, float *dgate) {
    for (long n = 0; n < pictures; n++) {
        std::vector<double> totals(2 * chs);
        const long first = n * pixels * chs;
        two_sums(pixels, chs, totals.data(), totals.data() + chs,
                 [&](long r, long c, auto &products, auto &) {
                     using T = std::decay_t<decltype(products)>;
                     const long at = first + r * chs + c;
                     T g = load<T>(dy + at);
                     products += g * load<T>(x + at);
                     store(dx + at, g * load<T>(gate + n * chs + c));
                 });
        for (long c = 0; c < chs; c++) dgate[n * chs + c] = float(totals[c]);
    }
}

// Gradients of x * gate, a gate for each pixel (rows).
void pixel_gate_backward(const float *dy, const float *x, const float *gate, long rows, long chs,
                         float *dx, float *dgate) {
    for (long r = 0; r < rows; r++)
        dgate[r] = along(
            chs, 0.0f,
            [&](long c, auto zero) {
                using T = decltype(zero);
                const long at = r * chs + c;
                T g = load<T>(dy + at);
                store(dx + at, g * gate[r]);
                return g * load<T>(x + at);
            },
            sum_of);
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

// Depthwise convolutions of stride 1 of maps with channels first, which are made of few channels
// (the pooled ones of a spatial gate): planes (h, w), each with a border of zeros.

template <int K> struct Planes {
    long h, w, wide;  // `wide`: a row with its border, room for whole vectors
    std::vector<float> padded;
    Planes(long h, long w)
        : h(h), w(w), wide((w + 15) / 16 * 16 + K - 1), padded((h + K - 1) * wide) {}

    void take(const float *plane) {
        float *inside = padded.data() + K / 2 * (wide + 1);
        for (long y = 0; y < h; y++) std::copy_n(plane + y * w, w, inside + y * wide);
    }

    v16 at(long y, long x) const { return load<v16>(padded.data() + y * wide + x); }  // with border
};

template <int K>
void planar(const float *x, const float *weight, bool turned, long planes, long chs, long h, long w,
            float *y) {
    Planes<K> source(h, w);
    for (long p = 0; p < planes; p++) {
        const float *filter = weight + p % chs * K * K;
        source.take(x + p * h * w);
        for (long r = 0; r < h; r++)
            for (long c = 0; c < w; c += 16) {
                v16 sum{};
                for (int i = 0; i < K; i++)
                    for (int j = 0; j < K; j++)
                        sum += source.at(r + i, c + j) *
                               filter[turned ? K * K - 1 - (i * K + j) : i * K + j];
                long left = w - c < 16 ? w - c : 16;
                std::memcpy(y + (p * h + r) * w + c, &sum, left * sizeof(float));
            }
    }
}

template <int K>
void planar_weight(const float *dy, const float *x, long planes, long chs, long h, long w,
                   float *dweight) {
    Planes<K> source(h, w);
    Planes<1> gradient(h, w);
    std::vector<double> sums(chs * K * K);
    for (long p = 0; p < planes; p++) {
        source.take(x + p * h * w);
        gradient.take(dy + p * h * w);
        for (int i = 0; i < K; i++) {
            v16 row[K]{};
            for (long r = 0; r < h; r++)
                for (long c = 0; c < w; c += 16)
                    for (int j = 0; j < K; j++) row[j] += gradient.at(r, c) * source.at(r + i, c + j);
            for (int j = 0; j < K; j++)
                sums[p % chs * K * K + i * K + j] += folded(row[j], sum_of);
        }
    }
    std::copy(sums.begin(), sums.end(), dweight);
}

template <class F> void with_kernel(long kernel, F f) {
    if (kernel == 5) f(std::integral_constant<int, 5>{});
    else f(std::integral_constant<int, 7>{});
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

// Ask memory for the tile below one whose pixels start here: it is due a row of tiles later, and no
// processor foresees that. A third of the time where few channels make many tiles. FOR_WRITING: 1.
template <int FOR_WRITING> void prefetch_below(const float *tile, long width, long chs, long c) {
    for (int i = 0; i < OUT; i++)
        for (int j = 0; j < OUT; j++)
            __builtin_prefetch(tile + ((i + OUT) * width + j) * chs + c, FOR_WRITING);
}

// The transforms of a line: of a map B^T d, of a gradient A g, of products A^T m, of a filter G g,
// and of a filter's gradient G^T u.

const auto map_line = [](const auto *d, auto *to) {
    auto even = d[4] - 4.0f * d[2], odd = d[3] - 4.0f * d[1];
    auto far = d[4] - d[2], near = 2.0f * (d[3] - d[1]);
    to[0] = 4.0f * d[0] - 5.0f * d[2] + d[4];
    to[1] = even + odd;
    to[2] = even - odd;
    to[3] = far + near;
    to[4] = far - near;
    to[5] = 4.0f * d[1] - 5.0f * d[3] + d[5];
};

const auto gradient_line = [](const auto *g, auto *to) {
    auto even = g[0] + g[2], odd = g[1] + g[3];
    auto far = g[0] + 4.0f * g[2], near = 2.0f * g[1] + 8.0f * g[3];
    to[0] = g[0];
    to[1] = even + odd;
    to[2] = even - odd;
    to[3] = far + near;
    to[4] = far - near;
    to[5] = g[3];
};

const auto product_line = [](const auto *m, auto *to) {
    auto even = m[1] + m[2], odd = m[1] - m[2], far = m[3] + m[4], near = m[3] - m[4];
    to[0] = m[0] + even + far;
    to[1] = odd + 2.0f * near;
    to[2] = even + 4.0f * far;
    to[3] = odd + 8.0f * near + m[5];
};

const auto filter_line = [](const float *g, float *to) {
    float even = g[0] + g[2], wide = g[0] + 4 * g[2];
    to[0] = g[0] / 4;
    to[1] = -(even + g[1]) / 6;
    to[2] = -(even - g[1]) / 6;
    to[3] = (wide + 2 * g[1]) / 24;
    to[4] = (wide - 2 * g[1]) / 24;
    to[5] = g[2];
};

const auto filter_gradient_line = [](const float *u, float *to) {
    to[0] = u[0] / 4 - (u[1] + u[2]) / 6 + (u[3] + u[4]) / 24;
    to[1] = (u[2] - u[1]) / 6 + (u[3] - u[4]) / 12;
    to[2] = -(u[1] + u[2]) / 6 + (u[3] + u[4]) / 6 + u[5];
};

// A line transform both ways, from N x N values to M x M: T from(i, j) and to(i, j, T) know where.
template <int N, int M, class T, class From, class Line, class To>
void both_ways(From from, Line line, To to) {
    T half[M][N];
#pragma GCC unroll 6
    for (int j = 0; j < N; j++) {  // down the columns
        T column[N], made[M];
        for (int i = 0; i < N; i++) column[i] = from(i, j);
        line(column, made);
        for (int i = 0; i < M; i++) half[i][j] = made[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < M; i++) {  // along the rows
        T made[M];
        line(half[i], made);
        for (int j = 0; j < M; j++) to(i, j, made[j]);
    }
}

// Maps (n, h, w, chs) -> points (POINTS, BLOCK, chs) of the tiles from `first` on.
void map_points(const float *x, const Dense &s, long chs, long first, long count, float *points) {
    const long apart = points_apart(chs);
    Tile tile(s, first);
    for (long p = 0; p < count; p++, tile.next(s)) {
        long top = OUT * tile.row - 1, left = OUT * tile.column - 1;
        const float *map = x + ((tile.n * s.h + top) * s.w + left) * chs;
        bool inner = top >= 0 && left >= 0 && top + SIDE <= s.h && left + SIDE <= s.w;
        for (long c = 0; c < chs; c += 16) {
            auto at = [&](int i, int j) { return load<v16>(map + (i * s.w + j) * chs + c); };
            auto at_edge = [&](int i, int j) {
                bool in = top + i >= 0 && top + i < s.h && left + j >= 0 && left + j < s.w;
                return in ? at(i, j) : v16{};
            };
            auto to = [&](int i, int j, v16 value) {
                store(points + (i * SIDE + j) * apart + p * chs + c, value);
            };
            prefetch_below<0>(map + (2 * s.w + 1) * chs, s.w, chs, c);
            if (inner) both_ways<SIDE, SIDE, v16>(at, map_line, to);
            else both_ways<SIDE, SIDE, v16>(at_edge, map_line, to);
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
        const float *map = dy + ((tile.n * s.h + top) * s.w + left) * chs;
        for (long c = 0; c < chs; c += 16) {
            prefetch_below<0>(map, s.w, chs, c);
            both_ways<OUT, SIDE, v16>(
                [&](int i, int j) {
                    bool in = p < count && top + i < s.h && left + j < s.w;
                    return in ? load<v16>(map + (i * s.w + j) * chs + c) : v16{};
                },
                gradient_line,
                [&](int i, int j, v16 value) {
                    store(points + (i * SIDE + j) * apart + p * chs + c, value);
                });
        }
    }
}

// Filters (out, in, 3, 3) -> (POINTS, in, out), or turned round and (POINTS, out, in) for the
// gradient of the input.
void filter_points(const float *weight, long in, long out, bool turned, float *points) {
    for (long o = 0; o < out; o++)
        for (long i = 0; i < in; i++) {
            const float *filter = weight + (o * in + i) * 9;
            float *at = points + (turned ? o * in + i : i * out + o);
            both_ways<3, SIDE, float>(
                [&](int k, int l) { return filter[turned ? 8 - (3 * k + l) : 3 * k + l]; },
                filter_line,
                [&](int k, int l, float u) { at[(k * SIDE + l) * in * out] = u; });
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
                prefetch_below<1>(to, s.w, s.out, c);
                both_ways<SIDE, OUT, v16>(
                    [&](int i, int j) {
                        return load<v16>(m.data() + (i * SIDE + j) * apart + p * s.out + c);
                    },
                    product_line,
                    [&](int i, int j, v16 value) {
                        if (top + i < s.h && left + j < s.w)
                            store(to + (i * s.w + j) * s.out + c, value);
                    });
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
            const float *at = u.data() + i * s.out + o;
            float *filter = dweight + (o * s.in + i) * 9;
            both_ways<SIDE, 3, float>(
                [&](int k, int l) { return at[(k * SIDE + l) * s.in * s.out]; },
                filter_gradient_line,
                [&](int k, int l, float d) { filter[3 * k + l] = d; });
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

// The highest channel of each pixel of x (rows, chs): top (rows).
void nasattn_top_forward(const float *x, long rows, long chs, float *top) {
    for (long r = 0; r < rows; r++)
        top[r] = along(
            chs, x[r * chs],
            [&](long c, auto zero) { return load<decltype(zero)>(x + r * chs + c); }, top_of);
}

void nasattn_top_backward(const float *dtop, const float *top, const float *x, long rows, long chs,
                          float *dx) {
    top_backward(dtop, top, x, rows, chs, dx);
}

// x: (pictures, pixels, chs), gate: (pictures, chs), or (pictures, pixels) where per_pixel.
void nasattn_gate_backward(const float *dy, const float *x, const float *gate, long pictures,
                           long pixels, long chs, int per_pixel, float *dx, float *dgate) {
    if (per_pixel) pixel_gate_backward(dy, x, gate, pictures * pixels, chs, dx, dgate);
    else channel_gate_backward(dy, x, gate, pictures, pixels, chs, dx, dgate);
}

// x: (n, h, w, chs), dy: (n, out_h, out_w, chs), weight: (chs, 1, kernel, kernel), kernel 5 or 7.
// dx may be null: the gradient of the input is not wanted then.
void nasattn_depthwise_backward(const float *dy, const float *x, const float *weight, long n,
                                long h, long w, long chs, long kernel, long stride, float *dx,
                                float *dweight) {
    long pad = kernel / 2;
    Shape s{n, h, w, chs, stride, pad, (h - 1) / stride + 1, (w - 1) / stride + 1};
    with_kernel(kernel, [&](auto k) {
        depthwise_backward<decltype(k)::value>(s, dy, x, weight, dx, dweight);
    });
}

// x, y: (n, chs, h, w), weight: (chs, 1, kernel, kernel), stride 1. turned: y is the gradient of the
// input, x that of the output.
void nasattn_planar(const float *x, const float *weight, long n, long chs, long h, long w,
                    long kernel, int turned, float *y) {
    with_kernel(kernel, [&](auto k) {
        planar<decltype(k)::value>(x, weight, turned, n * chs, chs, h, w, y);
    });
}

void nasattn_planar_weight(const float *dy, const float *x, long n, long chs, long h, long w,
                           long kernel, float *dweight) {
    with_kernel(kernel, [&](auto k) {
        planar_weight<decltype(k)::value>(dy, x, n * chs, chs, h, w, dweight);
    });
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
