// Bias, ReLU and max pooling of maps [images, height, width, channels] in one pass, and its gradient.
//
// `pool.rs` launches these. Of equal maxima the first is taken, and NaN before all numbers, as on the CPU.

typedef unsigned long long size;

// Sizes of maps before and after pooling.
struct Pooling {
    unsigned images, height, width, channels, window, stride, out_height, out_width;
};

// `winners`, unless it is null, tells where in its window each maximum was found.
extern "C" __global__ void __launch_bounds__(256)
bias_relu_pool(Pooling sizes, const float* __restrict__ maps, const float* __restrict__ bias, float* __restrict__ out,
               unsigned char* __restrict__ winners, int relu) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned len = sizes.out_height * sizes.out_width * sizes.channels;
    if (i >= len) return;
    unsigned channel = i % sizes.channels, place = i / sizes.channels;
    unsigned y = place / sizes.out_width * sizes.stride, x = place % sizes.out_width * sizes.stride;
    float b = bias[channel];
    for (unsigned image = blockIdx.y; image < sizes.images; image += gridDim.y) {
        const float* corner = maps + (size)image * sizes.height * sizes.width * sizes.channels
            + ((size)y * sizes.width + x) * sizes.channels + channel;
        float most = 0.0f;
        unsigned winner = 0;
        for (unsigned dy = 0; dy < sizes.window; dy++)
            for (unsigned dx = 0; dx < sizes.window; dx++) {
                float value = corner[((size)dy * sizes.width + dx) * sizes.channels] + b;
                if (relu && value < 0.0f) value = 0.0f;
                unsigned at = dy * sizes.window + dx;
                if (at == 0 || value > most || value != value) {
                    most = value;
                    winner = at;
                }
            }
        out[(size)image * len + i] = most;
        if (winners) winners[(size)image * len + i] = (unsigned char)winner;
    }
}

// The gradient before pooling, ReLU and bias: each number gathers from the windows that it won, in their order.
extern "C" __global__ void __launch_bounds__(256)
pool_gradient(Pooling sizes, const float* __restrict__ upstream, const float* __restrict__ ys,
              const unsigned char* __restrict__ winners, float* __restrict__ gradient, int relu) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned len = sizes.height * sizes.width * sizes.channels;
    if (i >= len) return;
    unsigned channel = i % sizes.channels, place = i / sizes.channels;
    unsigned y = place / sizes.width, x = place % sizes.width;
    unsigned window = sizes.window, stride = sizes.stride;
    unsigned top = y < window ? 0 : (y - window) / stride + 1, left = x < window ? 0 : (x - window) / stride + 1;
    unsigned bottom = y / stride, right = x / stride;
    if (bottom >= sizes.out_height) bottom = sizes.out_height - 1;
    if (right >= sizes.out_width) right = sizes.out_width - 1;
    size out_len = (size)sizes.out_height * sizes.out_width * sizes.channels;
    for (unsigned image = blockIdx.y; image < sizes.images; image += gridDim.y) {
        float sum = 0.0f;
        for (unsigned oy = top; oy <= bottom; oy++)
            for (unsigned ox = left; ox <= right; ox++) {
                size at = image * out_len + ((size)oy * sizes.out_width + ox) * sizes.channels + channel;
                bool won = winners[at] == (y - oy * stride) * window + (x - ox * stride);
                if (won && (!relu || ys[at] > 0.0f)) sum += upstream[at];
            }
        gradient[(size)image * len + i] = sum;
    }
}
