// The likelihood of pairs of `pairs.rs`, and the bank of `hashnet.rs`, on a GPU.
//
// A block takes 64 queries and a slice of the bank's images, 64 at a time: their products, what `pair` makes of each,
// and what that gives for the gradient never leave it. Sums over slices are made afterwards, in their order, so that
// the result does not depend on which block was ready first. Images are cut into slices by the sizes of the data.

#define TILE 64
// Bits whose products are added up between two waits.
#define DEPTH 16
// Numbers from one row of a tile to the next: 16-byte aligned, and neighbours in different banks.
#define PITCH 68
#define THREADS 256

typedef unsigned long long word;

struct alignas(16) four { float x, y, z, w; };

// codes = tanh(scale * logits)
extern "C" __global__ void squash(const float *__restrict__ logits, float scale, float *__restrict__ codes, word count) {
    word at = (word)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) codes[at] = tanhf(scale * logits[at]);
}

// Writes codes and labels of the batch's images to their places in the bank, which has `images` images from `first` on.
// Of an image that is there twice, the last.
extern "C" __global__ void remember(const float *__restrict__ codes, const word *__restrict__ labels,
                                    const word *__restrict__ index, int count, int bits, int width, word first,
                                    word images, float *bank, word *bank_labels) {
    int row = blockIdx.x;
    word image = index[row];
    // The same for the whole block.
    if (image < first || image - first >= images) return;
    __shared__ int later;
    if (threadIdx.x == 0) later = 0;
    __syncthreads();
    for (int other = row + 1 + threadIdx.x; other < count; other += blockDim.x) {
        if (index[other] == image) atomicMax(&later, 1);
    }
    __syncthreads();
    if (later) return;
    for (int i = threadIdx.x; i < bits; i += blockDim.x) bank[(image - first) * bits + i] = codes[(word)row * bits + i];
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        bank_labels[(image - first) * width + i] = labels[(word)row * width + i];
}

__device__ __forceinline__ bool share_a_class(const word *a, const word *b, int width) {
    word common = 0;
    for (int i = 0; i < width; i++) common |= a[i] & b[i];
    return common != 0;
}

// Adds to `found` how many pairs of a query and an image of the bank share a class.
extern "C" __global__ void __launch_bounds__(THREADS)
count_similar(const word *__restrict__ labels, int count, const word *__restrict__ bank_labels, int images, int width,
              word *found) {
    __shared__ word sums[THREADS];
    word sum = 0;
    word pairs = (word)count * images;
    for (word pair = (word)blockIdx.x * THREADS + threadIdx.x; pair < pairs; pair += (word)gridDim.x * THREADS) {
        const word *query = labels + pair / images * width;
        sum += share_a_class(query, bank_labels + pair % images * width, width);
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    // Whole numbers: the order of the blocks changes nothing.
    if (threadIdx.x == 0) atomicAdd(found, sums[0]);
}

// Weight of one pair in a mean over `count`; a mean over nothing counts nothing.
__device__ __forceinline__ double share(word count) { return count == 0 ? 0.0 : 1.0 / (double)count; }

// Columns `from .. from + DEPTH` of 64 rows, as columns of `tile`; zeros where there is nothing.
__device__ __forceinline__ void load_columns(float (*tile)[PITCH], const float *__restrict__ codes, int row, int rows,
                                             int from, int bits) {
    for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
        int r = i / DEPTH, c = i % DEPTH;
        bool inside = row + r < rows && from + c < bits;
        tile[c][r] = inside ? codes[(word)(row + r) * bits + from + c] : 0.0f;
    }
}

// Losses are two sums in f64 per tile of queries and slice: similar pairs, others. Gradients are by the codes of the
// queries, one share per slice. The grid's third coordinate picks 64 bits of the gradient. Weights are those of `pairs`
// pairs, `similar` of which are similar: all there are, of which these may be some.
extern "C" __global__ void __launch_bounds__(THREADS)
pair_likelihood(const float *__restrict__ codes, const word *__restrict__ labels, int count,
                const float *__restrict__ bank, const word *__restrict__ bank_labels, int images, int bits, int width,
                int per_slice, float alpha, word pairs, const word *__restrict__ similar,
                double *__restrict__ losses, float *__restrict__ gradients) {
    alignas(16) __shared__ float queries[DEPTH][PITCH];
    alignas(16) __shared__ float others[DEPTH][PITCH];
    // Derivatives of the pairs, an image's in a row; and the images' codes that they are multiplied by.
    alignas(16) __shared__ float slopes[TILE][PITCH];
    alignas(16) __shared__ float columns[TILE][PITCH];

    int query = blockIdx.x * TILE, slice = blockIdx.y, column = blockIdx.z * TILE;
    int first = slice * per_slice;
    int end = first + per_slice < images ? first + per_slice : images;
    int mine = threadIdx.x / 16 * 4, theirs = threadIdx.x % 16 * 4;

    float similar_slope = (float)(share(*similar) * (double)alpha);
    float other_slope = (float)(share(pairs - *similar) * (double)alpha);

    double similar_loss = 0.0, other_loss = 0.0;
    float gradient[4][4] = {};
    for (int start = first; start < end; start += TILE) {
        float products[4][4] = {};
        for (int from = 0; from < bits; from += DEPTH) {
            load_columns(queries, codes, query, count, from, bits);
            load_columns(others, bank, start, end, from, bits);
            __syncthreads();
            for (int c = 0; c < DEPTH; c++) {
                four a = *(const four *)&queries[c][mine], b = *(const four *)&others[c][theirs];
                float u[4] = {a.x, a.y, a.z, a.w}, v[4] = {b.x, b.y, b.z, b.w};
                for (int i = 0; i < 4; i++)
                    for (int j = 0; j < 4; j++) products[i][j] += u[i] * v[j];
            }
            __syncthreads();
        }
        for (int i = 0; i < 4; i++) {
            for (int j = 0; j < 4; j++) {
                int row = query + mine + i, image = start + theirs + j;
                float slope = 0.0f;
                if (row < count && image < end) {
                    float d = alpha * products[i][j];
                    float e = expf(-fabsf(d));
                    float softplus = log1pf(e) + (d > 0.0f ? d : 0.0f);
                    float sigmoid = d >= 0.0f ? 1.0f / (1.0f + e) : e / (1.0f + e);
                    if (share_a_class(labels + (word)row * width, bank_labels + (word)image * width, width)) {
                        similar_loss += (double)softplus - (double)d;
                        slope = (sigmoid - 1.0f) * similar_slope;
                    } else {
                        other_loss += (double)softplus;
                        slope = sigmoid * other_slope;
                    }
                }
                slopes[theirs + j][mine + i] = slope;
            }
        }
        for (int i = threadIdx.x; i < TILE * TILE; i += THREADS) {
            int r = i / TILE, c = i % TILE;
            bool inside = start + r < end && column + c < bits;
            columns[r][c] = inside ? bank[(word)(start + r) * bits + column + c] : 0.0f;
        }
        __syncthreads();
        for (int r = 0; r < TILE; r++) {
            four a = *(const four *)&slopes[r][mine], b = *(const four *)&columns[r][theirs];
            float u[4] = {a.x, a.y, a.z, a.w}, v[4] = {b.x, b.y, b.z, b.w};
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) gradient[i][j] += u[i] * v[j];
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            int row = query + mine + i, bit = column + theirs + j;
            if (row < count && bit < bits) gradients[((word)slice * count + row) * bits + bit] = gradient[i][j];
        }
    }
    if (blockIdx.z > 0) return;
    // As many bytes as the sums need, and free by now.
    double *sums = (double *)&slopes[0][0];
    for (int kind = 0; kind < 2; kind++) {
        sums[threadIdx.x] = kind == 0 ? similar_loss : other_loss;
        __syncthreads();
        for (int half = THREADS / 2; half > 0; half /= 2) {
            if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
            __syncthreads();
        }
        if (threadIdx.x == 0) losses[((word)slice * gridDim.x + blockIdx.x) * 2 + kind] = sums[0];
        __syncthreads();
    }
}

// One block: the loss, out of `shares` pairs of sums.
extern "C" __global__ void __launch_bounds__(THREADS)
whole_loss(const double *__restrict__ losses, int shares, word pairs, const word *__restrict__ similar, float *loss) {
    __shared__ double sums[2][THREADS];
    for (int kind = 0; kind < 2; kind++) {
        double sum = 0.0;
        for (int i = threadIdx.x; i < shares; i += THREADS) sum += losses[(word)i * 2 + kind];
        sums[kind][threadIdx.x] = sum;
    }
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            sums[0][threadIdx.x] += sums[0][threadIdx.x + half];
            sums[1][threadIdx.x] += sums[1][threadIdx.x + half];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) *loss = (float)(sums[0][0] * share(*similar) + sums[1][0] * share(pairs - *similar));
}

// The gradient by the logits: the slices' shares added up in f64, times `factor`, through tanh.
extern "C" __global__ void whole_gradient(const float *__restrict__ gradients, int slices, const float *__restrict__ codes,
                                          float factor, float scale, float *__restrict__ gradient, word count) {
    word at = (word)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    double sum = 0.0;
    for (int slice = 0; slice < slices; slice++) sum += (double)gradients[(word)slice * count + at];
    float u = codes[at];
    gradient[at] = (float)sum * factor * (scale * (1.0f - u * u));
}
