// Training kernels for one core: float32 maps, channels last (N, H, W, C).
//
// Built where it is used (see library.py), for the processor it runs on. Every function takes
// plain pointers; none keeps anything. Sums over many pixels are of double precision from one tile
// of rows (or one picture) to the next, so that a result hangs on no thread and hardly on size.

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
    template <class T> static T slope(T) { return T{} + 1.0f; }
};

struct Relu {
    template <class T> static T value(T z) { return z > 0.0f ? z : T{}; }
    template <class T> static T slope(T z) { return z > 0.0f ? T{} + 1.0f : T{}; }
};

struct Relu6 {
    template <class T> static T value(T z) {
        z = z > 0.0f ? z : T{};
        return z < 6.0f ? z : T{} + 6.0f;
    }
    template <class T> static T slope(T z) {
        T low = z > 0.0f ? T{} + 1.0f : T{};
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
        return z < 3.0f ? low : T{} + 1.0f;
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
        for (; r + AT_A_TIME <= r1; r += AT_A_TIME)
            over_channels(chs, [&](long c, auto zero) {
                using T = decltype(zero);
                T sum = load<T>(sums.data() + c), other = load<T>(more + c);
                for (long u = 0; u < AT_A_TIME; u++) f(r + u, c, sum, other);
                store(sums.data() + c, sum);
                store(more + c, other);
            });
        for (; r < r1; r++)
            over_channels(chs, [&](long c, auto zero) {
                using T = decltype(zero);
                T sum = load<T>(sums.data() + c), other = load<T>(more + c);
                f(r, c, sum, other);
                store(sums.data() + c, sum);
                store(more + c, other);
            });
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
        v = v > 0 ? v : 0;
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
}
