/* elf.c - whether the file of a shared object ends before what its ELF header says is in it.
 *
 * The loader of the system maps the segments of a file without comparing them with its size, and
 * the first access behind the end ends the process. */
#define _GNU_SOURCE /* ElfW */
#include "core/modules.h"
#ifdef __ELF__
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

/* Reads n bytes at an offset of f; nonzero: they are not all there. */
static int read_at(FILE *f, uint64_t offset, void *to, size_t n)
{
    return offset > LONG_MAX || fseek(f, (long)offset, SEEK_SET) || fread(to, 1, n, f) != n;
}

/* The end of the headers and of the segments that are mapped, or 0: f is no ELF file of this
 * machine's kind, which dlopen says. */
static uint64_t end_of(FILE *f)
{
    ElfW(Ehdr) head;
    ElfW(Phdr) part;
    const uint16_t order = 1;
    const int little = *(const unsigned char *)&order;
    if (read_at(f, 0, &head, sizeof head) || memcmp(head.e_ident, ELFMAG, SELFMAG)) return 0;
    if (head.e_ident[EI_CLASS] != (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32)) return 0;
    if (head.e_ident[EI_DATA] != (little ? ELFDATA2LSB : ELFDATA2MSB)) return 0;
    uint64_t end = head.e_shoff + (uint64_t)head.e_shnum * head.e_shentsize;
    for (unsigned i = 0; i < head.e_phnum; i++) {
        const uint64_t at = head.e_phoff + (uint64_t)i * head.e_phentsize;
        if (read_at(f, at, &part, sizeof part)) return UINT64_MAX;
        if (part.p_type != PT_LOAD) continue;
        if (part.p_filesz > UINT64_MAX - part.p_offset) return UINT64_MAX;
        if (part.p_offset + part.p_filesz > end) end = part.p_offset + part.p_filesz;
    }
    return end;
}

int qw_module_is_cut(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return 0; /* dlopen says why */
    const uint64_t end = end_of(f);
    char last;
    const int cut = end && read_at(f, end - 1, &last, 1);
    fclose(f);
    return cut;
}
#else
int qw_module_is_cut(const char *path)
{
    (void)path;
    return 0;
}
#endif
