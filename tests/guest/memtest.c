/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs inside the Linux guest of ./dev demo --linux: writes memory all the time and checks all of it, so that a page that was
 * lost, doubled or torn in a migration shows on the guest's own console.
 *
 *   memtest MEGABYTES [SEED [RATE]]
 *
 * Every page holds words made from the seed, its number and its generation (how often it was rewritten). The generations are kept
 * both in the page and in a table of their own. A pass checks every page and gives about one in eight, at random, its next
 * generation, within RATE MiB a second (default 16): a guest that writes faster than the link carries would never converge.
 * Prints "pass N ok, R pages rewritten so far" about twice a second, or "CORRUPT ..." once, and ends
 * then with status 1.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { PAGE = 4096, WORDS = PAGE / 8 };

static uint64_t mix(uint64_t x) { /* splitmix64's last step: neighbours become unlike */
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint64_t word_of(uint64_t base, uint64_t i) {
    return base + i * 0x9e3779b97f4a7c15u;
}

static void fill(uint64_t* page, uint64_t seed, uint64_t number, uint64_t generation) {
    const uint64_t base = mix(seed ^ mix(number + 1) ^ mix(~generation));
    page[0] = generation;
    for (uint64_t i = 1; i < WORDS; i++) {
        page[i] = word_of(base, i);
    }
}

static int check(const uint64_t* page, uint64_t seed, uint64_t number, uint64_t generation) {
    const uint64_t base = mix(seed ^ mix(number + 1) ^ mix(~generation));
    if (page[0] != generation) {
        printf("CORRUPT page %llu: generation %llu, must be %llu\n", (unsigned long long)number, (unsigned long long)page[0],
               (unsigned long long)generation);
        return 0;
    }
    for (uint64_t i = 1; i < WORDS; i++) {
        if (page[i] != word_of(base, i)) {
            printf("CORRUPT page %llu word %llu: %#llx, must be %#llx\n", (unsigned long long)number, (unsigned long long)i,
                   (unsigned long long)page[i], (unsigned long long)word_of(base, i));
            return 0;
        }
    }
    return 1;
}

int main(int argc, char** argv) {
    const uint64_t megabytes = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    const uint64_t rate = argc > 3 ? strtoull(argv[3], NULL, 10) : 16;
    if (megabytes == 0 || megabytes > 1u << 20) {
        fprintf(stderr, "usage: memtest MEGABYTES [SEED [MEGABYTES_PER_SECOND]]\n");
        return 2;
    }
    const uint64_t pages = megabytes * (1024 * 1024 / PAGE);
    uint64_t* memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t* generations = calloc(pages, sizeof *generations);
    if (memory == MAP_FAILED || generations == NULL) {
        perror("memtest: no memory");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (uint64_t n = 0; n < pages; n++) {
        fill(memory + n * WORDS, seed, n, 0);
    }
    printf("filled %llu MiB\n", (unsigned long long)megabytes);
    const uint64_t start = now_ms();
    uint64_t random = seed, rewritten = 0, said = start;
    for (uint64_t pass = 1;; pass++) {
        const uint64_t budget = (now_ms() - start) * rate * (1024 * 1024 / PAGE) / 1000; /* pages */
        for (uint64_t n = 0; n < pages; n++) {
            if (!check(memory + n * WORDS, seed, n, generations[n])) {
                return 1;
            }
            random = mix(random + 0x9e3779b97f4a7c15u);
            if (random % 8 == 0 && rewritten < budget) {
                fill(memory + n * WORDS, seed, n, ++generations[n]);
                rewritten++;
            }
        }
        if (now_ms() - said >= 500) { /* the console is slow */
            said = now_ms();
            printf("pass %llu ok, %llu pages rewritten so far\n", (unsigned long long)pass, (unsigned long long)rewritten);
        }
    }
}
