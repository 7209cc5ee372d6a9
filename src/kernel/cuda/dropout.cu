// Dropout of `dropout.rs`. A block does a chunk of 4,096 numbers, which share a stream: word i decides about number i.
//
// `first` numbers of the batch come before those of `xs`.

#define CHUNK 4096
#define THREADS 256
// Words of a thread's block of the stream, and one more so that the threads of a warp write to different banks.
#define PITCH 17

extern "C" __global__ void __launch_bounds__(THREADS)
dropout(const float *__restrict__ xs, float *__restrict__ ys, unsigned long long first, unsigned long long count,
        unsigned long long seed, unsigned long long step, unsigned long long layer, unsigned dropped_below, float scale) {
    __shared__ unsigned key[8];
    __shared__ unsigned draws[THREADS * PITCH];
    unsigned long long chunk = first / CHUNK + blockIdx.x;
    int thread = threadIdx.x;
    if (thread == 0) {
        // seed, length of the purpose, "dropout", step, layer, chunk: 47 bytes, of which the purpose has 7.
        unsigned long long name[8] = {seed,
                                      7,
                                      0x0074756F706F7264ull | step << 56,
                                      step >> 8 | layer << 56,
                                      layer >> 8 | chunk << 56,
                                      chunk >> 8,
                                      0,
                                      0};
        unsigned message[16];
        for (int i = 0; i < 8; i++) {
            message[2 * i] = (unsigned)name[i];
            message[2 * i + 1] = (unsigned)(name[i] >> 32);
        }
        blake3_short(message, 47, key);
    }
    __syncthreads();
    unsigned words[16];
    chacha8_block(key, thread, words);
    for (int i = 0; i < 16; i++) draws[thread * PITCH + i] = words[i];
    __syncthreads();
    for (int i = thread; i < CHUNK; i += THREADS) {
        unsigned long long position = chunk * CHUNK + i, at = position - first;
        if (position >= first && at < count) {
            unsigned draw = draws[i / 16 * PITCH + i % 16];
            ys[at] = draw < dropped_below ? 0.0f : xs[at] * scale;
        }
    }
}
