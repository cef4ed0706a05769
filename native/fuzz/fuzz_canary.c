/* Invariant: none. This target has a bug on purpose, and `make fuzz-smoke` fails unless the runs find it: a reader of [magic,
 * length, bytes] that believes the length. If this is not caught, neither would be the same mistake in a real reader. */
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sum;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 3 || data[0] != 'o' || data[1] != 'k') {
        return 0;
    }
    const size_t length = data[2];
    for (size_t i = 0; i < length; i++) { /* planted: length was not held against size */
        sum = (uint8_t)(sum + data[3 + i]);
    }
    return 0;
}
