// What is done to numbers one by one, to columns, and to the order of numbers.
//
// `elements.rs` launches these and checks the sizes. Loops over blockIdx.y make up for grids being at most 65535 high.

typedef unsigned long long size;

// Adds a bias per channel to rows of `len` numbers, in place; with `relu`, what is below 0 becomes 0, and NaN stays.
extern "C" __global__ void __launch_bounds__(256)
bias_relu(float* __restrict__ values, const float* __restrict__ bias, unsigned rows, unsigned len, unsigned channels,
          int relu) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= len) return;
    float b = bias[i % channels];
    for (unsigned row = blockIdx.y; row < rows; row += gridDim.y) {
        float* at = values + (size)row * len + i;
        float value = *at + b;
        *at = relu && value < 0.0f ? 0.0f : value;
    }
}

// The gradient before the ReLU whose output is `ys`; its derivative at 0 is 0.
extern "C" __global__ void __launch_bounds__(256)
relu_gradient(const float* __restrict__ upstream, const float* __restrict__ ys, float* __restrict__ gradient, size len) {
    size i = (size)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < len) gradient[i] = ys[i] > 0.0f ? upstream[i] : 0.0f;
}

// Sums of columns over parts of `part` rows: [rows, columns] to [parts, columns]. Blocks of 32 x 8 threads.
extern "C" __global__ void __launch_bounds__(256)
column_sums(const float* __restrict__ matrix, float* __restrict__ sums, size rows, unsigned columns, size part) {
    __shared__ float shared[8][33];
    unsigned column = blockIdx.x * 32 + threadIdx.x;
    size first = blockIdx.y * part, last = first + part < rows ? first + part : rows;
    float sum = 0.0f;
    if (column < columns)
        for (size row = first + threadIdx.y; row < last; row += 8) sum += matrix[row * columns + column];
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
        for (int i = 1; i < 8; i++) sum += shared[i][threadIdx.x];
        sums[(size)blockIdx.y * columns + column] = sum;
    }
}

// Turns matrices of [rows, columns] into [columns, rows]. Blocks of 32 x 8 threads, one for 32 x 32 numbers.
extern "C" __global__ void __launch_bounds__(256)
transpose(const float* __restrict__ from, float* __restrict__ to, unsigned matrices, unsigned rows, unsigned columns) {
    __shared__ float tile[32][33];
    unsigned left = blockIdx.x * 32, top = blockIdx.y * 32;
    for (unsigned matrix = blockIdx.z; matrix < matrices; matrix += gridDim.z) {
        const float* source = from + (size)matrix * rows * columns;
        float* target = to + (size)matrix * rows * columns;
        for (unsigned i = threadIdx.y; i < 32; i += 8) {
            unsigned row = top + i, column = left + threadIdx.x;
            if (row < rows && column < columns) tile[i][threadIdx.x] = source[(size)row * columns + column];
        }
        __syncthreads();
        for (unsigned i = threadIdx.y; i < 32; i += 8) {
            unsigned row = left + i, column = top + threadIdx.x;
            if (row < columns && column < rows) target[(size)row * rows + column] = tile[threadIdx.x][i];
        }
        __syncthreads();
    }
}

// Rounds to bf16: to the nearest, to the even one of two that are equally near; NaN stays NaN.
extern "C" __global__ void __launch_bounds__(256)
round_bf16(const float* __restrict__ from, unsigned short* __restrict__ to, size len) {
    size i = (size)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < len) to[i] = bf16(from[i]);
}
