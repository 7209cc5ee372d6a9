// Logits to codes, as `retrieval::Codes` has them: bit j of an image's words is 1 where output j is above 0.
//
// A warp does an image. Behind its words stand the outputs that are 0, and the position of the first that is NaN plus 1.

extern "C" __global__ void __launch_bounds__(32)
pack_signs(const float *__restrict__ logits, int bits, int width, unsigned long long *__restrict__ out) {
    const float *row = logits + (unsigned long long)blockIdx.x * bits;
    unsigned long long *words = out + (unsigned long long)blockIdx.x * (width + 2);
    int lane = threadIdx.x;
    unsigned long long word = 0, zeros = 0, nan = 0;
    for (int from = 0; from < width * 64; from += 32) {
        bool inside = from + lane < bits;
        float x = inside ? row[from + lane] : 1.0f;
        unsigned ones = __ballot_sync(0xFFFFFFFFu, inside && x > 0.0f);
        zeros += __popc(__ballot_sync(0xFFFFFFFFu, x == 0.0f));
        unsigned strange = __ballot_sync(0xFFFFFFFFu, x != x);
        if (strange && !nan) {
            int first = 0;
            while (!(strange >> first & 1)) first++;
            nan = from + first + 1;
        }
        if (from % 64 == 0) {
            word = ones;
        } else if (lane == 0) {
            words[from / 64] = word | (unsigned long long)ones << 32;
        }
    }
    if (lane == 0) {
        words[width] = zeros;
        words[width + 1] = nan;
    }
}
