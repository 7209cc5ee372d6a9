// Windows of maps as rows of a matrix, and back: what makes a convolution a product of matrices.
//
// `unfold.rs` launches these. A row holds what lies under the window at one place, [kernel, kernel, channels], so that
// numbers that are neighbours in the maps are neighbours in it.

typedef unsigned long long size;

// Sizes of some images and of the windows over them.
struct Windows {
    unsigned images, height, width, channels, kernel, stride, padding, out_height, out_width;
    // From one number of a channel to its neighbour in a row, and from one channel to the next.
    unsigned pixel, plane;
};

__device__ __forceinline__ void put(float* to, float x) { *to = x; }
__device__ __forceinline__ void put(unsigned short* to, float x) { *to = bf16(x); }

// One thread has one place of the window, and goes along a row of outputs.
template <typename T> __device__ void unfold(const Windows& sizes, const float* __restrict__ xs, T* __restrict__ out) {
    unsigned at = blockIdx.x * blockDim.x + threadIdx.x, len = sizes.kernel * sizes.kernel * sizes.channels;
    if (at >= len) return;
    unsigned channel = at % sizes.channels, tap = at / sizes.channels;
    int ky = (int)(tap / sizes.kernel) - (int)sizes.padding, kx = (int)(tap % sizes.kernel) - (int)sizes.padding;
    unsigned rows = sizes.images * sizes.out_height;
    for (unsigned row = blockIdx.y; row < rows; row += gridDim.y) {
        unsigned image = row / sizes.out_height;
        int y = (int)(row % sizes.out_height * sizes.stride) + ky, x = kx;
        bool inside = y >= 0 && y < (int)sizes.height;
        const float* line = xs + (size)image * sizes.height * sizes.width * sizes.channels
            + (size)(inside ? y : 0) * sizes.width * sizes.pixel + (size)channel * sizes.plane;
        T* to = out + (size)row * sizes.out_width * len + at;
        for (unsigned ox = 0; ox < sizes.out_width; ox++, x += (int)sizes.stride, to += len) {
            bool there = inside && x >= 0 && x < (int)sizes.width;
            put(to, there ? line[(size)x * sizes.pixel] : 0.0f);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
unfold_f32(Windows sizes, const float* __restrict__ xs, float* __restrict__ out) {
    unfold(sizes, xs, out);
}

extern "C" __global__ void __launch_bounds__(256)
unfold_bf16(Windows sizes, const float* __restrict__ xs, unsigned short* __restrict__ out) {
    unfold(sizes, xs, out);
}

// The sum of all places where a number of the maps [images, height, width, channels] lies under a window.
extern "C" __global__ void __launch_bounds__(256)
fold(Windows sizes, const float* __restrict__ rows_of_windows, float* __restrict__ out) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= sizes.width * sizes.channels) return;
    unsigned kernel = sizes.kernel, stride = sizes.stride, channels = sizes.channels;
    unsigned channel = i % channels, x = i / channels + sizes.padding, len = kernel * kernel * channels;
    unsigned left = x < kernel ? 0 : (x - kernel) / stride + 1, right = x / stride;
    if (right >= sizes.out_width) right = sizes.out_width - 1;
    for (unsigned row = blockIdx.y; row < sizes.images * sizes.height; row += gridDim.y) {
        unsigned image = row / sizes.height, y = row % sizes.height + sizes.padding;
        unsigned top = y < kernel ? 0 : (y - kernel) / stride + 1, bottom = y / stride;
        if (bottom >= sizes.out_height) bottom = sizes.out_height - 1;
        float sum = 0.0f;
        for (unsigned oy = top; oy <= bottom; oy++)
            for (unsigned ox = left; ox <= right; ox++) {
                size place = ((size)image * sizes.out_height + oy) * sizes.out_width + ox;
                unsigned tap = (y - oy * stride) * kernel + (x - ox * stride);
                sum += rows_of_windows[place * len + (size)tap * channels + channel];
            }
        out[(size)row * sizes.width * channels + i] = sum;
    }
}
