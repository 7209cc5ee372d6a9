// The streams of `seeded.rs`, word for word: BLAKE3 of a stream's name is the key of ChaCha with 8 rounds, whose words
// are the draws. All of it is integer arithmetic, so the bits are those of the CPU.

__device__ __forceinline__ unsigned turn_left(unsigned x, int by) { return (x << by) | (x >> (32 - by)); }
__device__ __forceinline__ unsigned turn_right(unsigned x, int by) { return (x >> by) | (x << (32 - by)); }

__device__ __forceinline__ void blake3_mix(unsigned *v, int a, int b, int c, int d, unsigned x, unsigned y) {
    v[a] = v[a] + v[b] + x;
    v[d] = turn_right(v[d] ^ v[a], 16);
    v[c] = v[c] + v[d];
    v[b] = turn_right(v[b] ^ v[c], 12);
    v[a] = v[a] + v[b] + y;
    v[d] = turn_right(v[d] ^ v[a], 8);
    v[c] = v[c] + v[d];
    v[b] = turn_right(v[b] ^ v[c], 7);
}

// BLAKE3 of at most 64 bytes, which lie in `m` in little-endian words with zeros behind them (BLAKE3, section 2.2).
__device__ inline void blake3_short(const unsigned *message, unsigned bytes, unsigned *key) {
    const unsigned iv[8] = {0x6A09E667u, 0xBB67AE85u, 0x3C6EF372u, 0xA54FF53Au,
                            0x510E527Fu, 0x9B05688Cu, 0x1F83D9ABu, 0x5BE0CD19u};
    const int permutation[16] = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};
    unsigned m[16], v[16];
    for (int i = 0; i < 16; i++) m[i] = message[i];
    for (int i = 0; i < 8; i++) v[i] = iv[i];
    for (int i = 0; i < 4; i++) v[8 + i] = iv[i];
    v[12] = 0;      // the counter of chunks
    v[13] = 0;
    v[14] = bytes;
    v[15] = 1 | 2 | 8;  // first and last block of its chunk, and the root
    for (int round = 0; round < 7; round++) {
        blake3_mix(v, 0, 4, 8, 12, m[0], m[1]);
        blake3_mix(v, 1, 5, 9, 13, m[2], m[3]);
        blake3_mix(v, 2, 6, 10, 14, m[4], m[5]);
        blake3_mix(v, 3, 7, 11, 15, m[6], m[7]);
        blake3_mix(v, 0, 5, 10, 15, m[8], m[9]);
        blake3_mix(v, 1, 6, 11, 12, m[10], m[11]);
        blake3_mix(v, 2, 7, 8, 13, m[12], m[13]);
        blake3_mix(v, 3, 4, 9, 14, m[14], m[15]);
        unsigned next[16];
        for (int i = 0; i < 16; i++) next[i] = m[permutation[i]];
        for (int i = 0; i < 16; i++) m[i] = next[i];
    }
    for (int i = 0; i < 8; i++) key[i] = v[i] ^ v[i + 8];
}

__device__ __forceinline__ void chacha_quarter(unsigned *s, int a, int b, int c, int d) {
    s[a] += s[b];
    s[d] = turn_left(s[d] ^ s[a], 16);
    s[c] += s[d];
    s[b] = turn_left(s[b] ^ s[c], 12);
    s[a] += s[b];
    s[d] = turn_left(s[d] ^ s[a], 8);
    s[c] += s[d];
    s[b] = turn_left(s[b] ^ s[c], 7);
}

// Words `16 * block` to `16 * block + 15` of a stream.
__device__ inline void chacha8_block(const unsigned *key, unsigned long long block, unsigned *words) {
    unsigned start[16] = {0x61707865u, 0x3320646Eu, 0x79622D32u, 0x6B206574u};
    for (int i = 0; i < 8; i++) start[4 + i] = key[i];
    start[12] = (unsigned)block;
    start[13] = (unsigned)(block >> 32);
    start[14] = 0;
    start[15] = 0;
    for (int i = 0; i < 16; i++) words[i] = start[i];
    for (int twice = 0; twice < 4; twice++) {
        chacha_quarter(words, 0, 4, 8, 12);
        chacha_quarter(words, 1, 5, 9, 13);
        chacha_quarter(words, 2, 6, 10, 14);
        chacha_quarter(words, 3, 7, 11, 15);
        chacha_quarter(words, 0, 5, 10, 15);
        chacha_quarter(words, 1, 6, 11, 12);
        chacha_quarter(words, 2, 7, 8, 13);
        chacha_quarter(words, 3, 4, 9, 14);
    }
    for (int i = 0; i < 16; i++) words[i] += start[i];
}
