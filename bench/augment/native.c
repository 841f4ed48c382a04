/* The engine's operations in C: each image runs through its whole program while it is in cache.
 *
 * Same results as the tensor version, bit for bit, so the comments there give the reasons.  Images
 * are planes of uint8, (B, C, H, W).  Compile without contraction: a fused multiply-add differs.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE, FLIP_LR, FLIP_UD,
    INVERT, SOLARIZE, POSTERIZE, SOLARIZE_ADD, AUTOCONTRAST, EQUALIZE,
    BRIGHTNESS, CONTRAST, COLOR, SHARPNESS, SMOOTH, BLUR, CUTOUT
};

typedef struct {
    int channels, height, width;
    int64_t pixels; /* of one plane */
} Shape;

static uint8_t clip(float value) {
    value = value > 0.0f ? value : 0.0f;
    value = value < 255.0f ? value : 255.0f;
    return (uint8_t)(int32_t)value;
}

/* Pixels */

static void look_up(const uint8_t *in, uint8_t *out, int64_t n, const uint8_t *table) {
    for (int64_t i = 0; i < n; i++) out[i] = table[in[i]];
}

static void invert_from(const uint8_t *in, uint8_t *out, int64_t n, double threshold) {
    int least = (int)ceil(threshold);
    for (int64_t i = 0; i < n; i++) out[i] = in[i] >= least ? (uint8_t)(255 - in[i]) : in[i];
}

static void posterize(const uint8_t *in, uint8_t *out, int64_t n, int removed) {
    uint8_t mask = (uint8_t)(256 - (1 << removed));
    for (int64_t i = 0; i < n; i++) out[i] = in[i] & mask;
}

static void solarize_add(const uint8_t *in, uint8_t *out, int64_t n, int amount) {
    for (int64_t i = 0; i < n; i++) {
        int sum = in[i] + amount;
        out[i] = in[i] < 128 ? (uint8_t)(sum < 255 ? sum : 255) : in[i];
    }
}

/* Tables */

static void autocontrast(const uint8_t *in, uint8_t *out, int64_t n) {
    uint8_t low = 255, high = 0, table[256];
    for (int64_t i = 0; i < n; i++) {
        low = in[i] < low ? in[i] : low;
        high = in[i] > high ? in[i] : high;
    }
    if (high <= low) {
        memcpy(out, in, n);
        return;
    }
    double scale = 255.0 / (high - low), offset = -low * scale;
    for (int v = 0; v < 256; v++) {
        double value = v * scale + offset;
        table[v] = value <= 0.0 ? 0 : value >= 255.0 ? 255 : (uint8_t)(int)value;
    }
    look_up(in, out, n, table);
}

static void equalize(const uint8_t *in, uint8_t *out, int64_t n) {
    uint32_t part[4][256] = {{0}}; /* four at a time: equal neighbours would wait for each other */
    uint8_t table[256];
    int64_t i = 0, sum, step;
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++) part[k][in[i + k]]++;
    for (; i < n; i++) part[0][in[i]]++;
    int64_t histogram[256], last = 0;
    for (int v = 0; v < 256; v++) {
        histogram[v] = (int64_t)part[0][v] + part[1][v] + part[2][v] + part[3][v];
        last = histogram[v] ? histogram[v] : last;
    }
    step = (n - last) / 255;
    if (step == 0) {
        memcpy(out, in, n);
        return;
    }
    sum = step / 2;
    for (int v = 0; v < 256; v++) {
        int64_t value = sum / step;
        table[v] = (uint8_t)(value < 255 ? value : 255);
        sum += histogram[v];
    }
    look_up(in, out, n, table);
}

/* Blends */

static void blend_with(
    const uint8_t *in, uint8_t *out, int64_t n, float degenerate, float factor
) {
    for (int64_t i = 0; i < n; i++) {
        float change = factor * ((float)in[i] - degenerate);
        out[i] = clip(degenerate + change);
    }
}

static void blend(
    const uint8_t *in, const uint8_t *degenerate, uint8_t *out, int64_t n, float factor
) {
    for (int64_t i = 0; i < n; i++) {
        float d = (float)degenerate[i];
        float change = factor * ((float)in[i] - d);
        out[i] = clip(d + change);
    }
}

static void grey(const uint8_t *in, uint8_t *out, Shape s) {
    if (s.channels == 1) {
        memcpy(out, in, s.pixels);
        return;
    }
    const uint8_t *green = in + s.pixels, *blue = green + s.pixels;
    for (int64_t i = 0; i < s.pixels; i++)
        out[i] = (uint8_t)((in[i] * 19595 + green[i] * 38470 + blue[i] * 7471 + 32768) >> 16);
}

static float mean_grey(const uint8_t *in, uint8_t *scratch, Shape s) {
    int64_t total = 0;
    grey(in, scratch, s);
    for (int64_t i = 0; i < s.pixels; i++) total += scratch[i];
    return (float)((2 * total + s.pixels) / (2 * s.pixels));
}

static void smooth(const uint8_t *in, uint8_t *out, int height, int width) {
    memcpy(out, in, (int64_t)height * width);
    if (height < 3 || width < 3) return;
    for (int y = 1; y < height - 1; y++) {
        const uint8_t *up = in + (y - 1) * width, *at = up + width, *down = at + width;
        uint8_t *to = out + y * width;
        for (int x = 1; x < width - 1; x++) {
            int sum = up[x - 1] + up[x] + up[x + 1] + at[x - 1] + 5 * at[x] + at[x + 1]
                + down[x - 1] + down[x] + down[x + 1];
            to[x] = (uint8_t)(((2 * sum + 13) * 20165) >> 19); /* floor((2 sum + 13) / 26) */
        }
    }
}

static void blur(const uint8_t *in, uint8_t *out, int height, int width) {
    memcpy(out, in, (int64_t)height * width);
    if (height < 5 || width < 5) return;
    for (int y = 2; y < height - 2; y++) {
        const uint8_t *a = in + (y - 2) * width, *b = a + width, *c = b + width;
        const uint8_t *d = c + width, *e = d + width;
        uint8_t *to = out + y * width;
        for (int x = 2; x < width - 2; x++) {
            int sum = a[x - 2] + a[x - 1] + a[x] + a[x + 1] + a[x + 2] + b[x - 2] + b[x + 2]
                + c[x - 2] + c[x + 2] + d[x - 2] + d[x + 2] + e[x - 2] + e[x - 1] + e[x]
                + e[x + 1] + e[x + 2];
            to[x] = (uint8_t)((sum + 8) >> 4);
        }
    }
}

/* Warps */

static int inside(int32_t x, int32_t y, int height, int width) {
    return (uint32_t)(x >> 16) < (uint32_t)width && (uint32_t)(y >> 16) < (uint32_t)height;
}

/* Coordinates are linear along a row, so what lies inside the image is an interval of the row. */
static void warp(
    const uint8_t *in, uint8_t *out, int32_t *index, Shape s, const int32_t *w, const uint8_t *fill
) {
    int shifted = w[0] == 65536 && w[3] == 0; /* rows move by whole pixels */
    for (int y = 0; y < s.height; y++) {
        int32_t fx = w[2] + w[1] * y, fy = w[5] + w[4] * y;
        int first = 0, last = s.width;
        while (first < last && !inside(fx + w[0] * first, fy + w[3] * first, s.height, s.width))
            first++;
        while (last > first
               && !inside(fx + w[0] * (last - 1), fy + w[3] * (last - 1), s.height, s.width))
            last--;
        for (int x = first; x < last && !shifted; x++)
            index[x] = ((fy + w[3] * x) >> 16) * s.width + ((fx + w[0] * x) >> 16);
        for (int c = 0; c < s.channels; c++) {
            const uint8_t *plane = in + c * s.pixels;
            uint8_t *row = out + c * s.pixels + (int64_t)y * s.width;
            memset(row, fill[c], first);
            memset(row + last, fill[c], s.width - last);
            if (shifted && first < last) {
                int64_t from = (int64_t)(fy >> 16) * s.width + (fx >> 16);
                memcpy(row + first, plane + from + first, last - first);
            } else {
                for (int x = first; x < last; x++) row[x] = plane[index[x]];
            }
        }
    }
}

static void cutout(uint8_t *image, Shape s, const int32_t *box, const uint8_t *fill) {
    int x0 = box[0] > 0 ? box[0] : 0, x1 = box[1] < s.width ? box[1] : s.width - 1;
    int y0 = box[2] > 0 ? box[2] : 0, y1 = box[3] < s.height ? box[3] : s.height - 1;
    if (x1 < x0) return;
    for (int c = 0; c < s.channels; c++)
        for (int y = y0; y <= y1; y++)
            memset(image + c * s.pixels + (int64_t)y * s.width + x0, fill[c], x1 - x0 + 1);
}

/* Programs */

typedef struct {
    int64_t operation;
    double magnitude;
    const int32_t *whole; /* six coefficients of a warp, or the box of a cutout */
} Step;

static void carry_out(
    Step step, const uint8_t *in, uint8_t *out, uint8_t *scratch, int32_t *index, Shape s,
    const uint8_t *colours
) {
    int64_t n = s.pixels, all = n * s.channels;
    double m = step.magnitude;
    float factor = (float)(1.0 + m);
    switch (step.operation) {
    case INVERT: invert_from(in, out, all, 0.0); return;
    case SOLARIZE: invert_from(in, out, all, 256.0 - m); return;
    case POSTERIZE: posterize(in, out, all, (int)m); return;
    case SOLARIZE_ADD: solarize_add(in, out, all, (int)m); return;
    case BRIGHTNESS: blend_with(in, out, all, 0.0f, factor); return;
    case CONTRAST: blend_with(in, out, all, mean_grey(in, scratch, s), factor); return;
    case COLOR: grey(in, scratch, s); break;
    case CUTOUT:
        memcpy(out, in, all);
        cutout(out, s, step.whole, colours + 4);
        return;
    case SHEAR_X: case SHEAR_Y: case TRANSLATE_X: case TRANSLATE_Y: case ROTATE:
    case FLIP_LR: case FLIP_UD:
        warp(in, out, index, s, step.whole, colours);
        return;
    }
    for (int c = 0; c < s.channels; c++) {
        const uint8_t *from = in + c * n;
        uint8_t *to = out + c * n;
        switch (step.operation) {
        case AUTOCONTRAST: autocontrast(from, to, n); break;
        case EQUALIZE: equalize(from, to, n); break;
        case COLOR: blend(from, scratch, to, n, factor); break;
        case SHARPNESS:
            smooth(from, scratch, s.height, s.width);
            blend(from, scratch, to, n, factor);
            break;
        case SMOOTH: smooth(from, to, s.height, s.width); break;
        case BLUR: blur(from, to, s.height, s.width); break;
        }
    }
}

/* Runs images first..last through their programs.  `whole` is (B, L, 6), `colours` two times four
 * bytes: outside a warped image, and in a cutout.  Returns 0, or 1 where memory ran out. */
int run(
    const uint8_t *images, uint8_t *out, int64_t first, int64_t last, int channels, int height,
    int width, int slots, const int64_t *operation, const double *magnitude, const int32_t *whole,
    const uint8_t *colours
) {
    Shape s = {channels, height, width, (int64_t)height * width};
    int64_t size = s.pixels * channels;
    uint8_t *memory = malloc(3 * size + width * sizeof(int32_t));
    if (!memory) return 1;
    int32_t *index = (int32_t *)memory;
    uint8_t *scratch = memory + width * sizeof(int32_t);
    uint8_t *spare[2] = {scratch + size, scratch + 2 * size};
    for (int64_t i = first; i < last; i++) {
        const uint8_t *now = images + i * size;
        int remaining = 0, turn = 0;
        for (int l = 0; l < slots; l++) remaining += operation[i * slots + l] != IDENTITY;
        if (!remaining) memcpy(out + i * size, now, size);
        for (int l = 0; l < slots; l++) {
            int64_t cell = i * slots + l;
            if (operation[cell] == IDENTITY) continue;
            uint8_t *next = --remaining ? spare[turn] : out + i * size;
            turn = 1 - turn;
            Step step = {operation[cell], magnitude[cell], whole + 6 * cell};
            carry_out(step, now, next, scratch, index, s, colours);
            now = next;
        }
    }
    free(memory);
    return 0;
}
