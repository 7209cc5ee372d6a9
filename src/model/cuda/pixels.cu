// Bytes of images to the numbers a network reads: cut, mirrored and normalised as `Transform` does.
//
// `places` has three words per image: the byte at which the cut's first pixel lies, the bytes from one of its rows to
// the next, and 1 if it is mirrored. `table` says what each value of red, green and blue becomes; it is made on the
// host, so the numbers are those of the CPU to the bit.

#define THREADS 256

extern "C" __global__ void __launch_bounds__(THREADS)
normalised_cuts(const unsigned char *__restrict__ bytes, const unsigned long long *__restrict__ places,
                const float *__restrict__ table, int side, float *__restrict__ out) {
    __shared__ float values[3 * 256];
    for (int i = threadIdx.x; i < 3 * 256; i += THREADS) values[i] = table[i];
    __syncthreads();
    int pixels = side * side;
    int per_image = (pixels + THREADS - 1) / THREADS;
    unsigned long long image = blockIdx.x / per_image;
    int pixel = blockIdx.x % per_image * THREADS + threadIdx.x;
    if (pixel >= pixels) return;
    const unsigned long long *place = places + image * 3;
    int y = pixel / side, x = pixel % side;
    if (place[2]) x = side - 1 - x;
    const unsigned char *from = bytes + place[0] + y * place[1] + 3 * x;
    for (int channel = 0; channel < 3; channel++) {
        out[(image * 3 + channel) * pixels + pixel] = values[channel * 256 + from[channel]];
    }
}
