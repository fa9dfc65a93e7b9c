/* Stands in for every program on the oracle's PATH: appends its argv to descriptor 9 in one write (count, then each word with its
   NUL), and goes on as the real program of its name where the stage has one. Built by the test that uses it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    static char buffer[1 << 16];
    const char *slash = strrchr(argv[0], '/');
    const char *name = slash ? slash + 1 : argv[0];
    size_t used = (size_t)snprintf(buffer, 32, "%d", argc) + 1;
    for (int i = 0; i < argc; i++) {
        const char *word = i ? argv[i] : name;
        size_t length = strlen(word) + 1;
        if (used + length > sizeof buffer) return 125;
        memcpy(buffer + used, word, length);
        used += length;
    }
    if (write(9, buffer, used) != (ssize_t)used) return 125;
    char real[4096];
    snprintf(real, sizeof real, "%s/%s", REAL, name);
    if (access(real, X_OK) == 0) execv(real, argv);
    return 0;
}
