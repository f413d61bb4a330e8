/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer: any bytes as the payload of a bootstrap message. The parser may refuse them or not, and say so in a line
 * of the log; it may not read or write beside them. What it has accepted must be what the stages rely on.
 */
#include "../../nsapi/_nsexec.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
    if (!holds)
        abort();
}

/* As write_map does for a helper, in the room that allocate() would have made for it. */
static void check_map(char *map, size_t size)
{
    if (!map)
        return;
    char **arguments = calloc(size / 2 + 4, sizeof *arguments), pid[] = "1";
    check(arguments != NULL);
    fill_arguments(arguments, "/helper", pid, map);
    size_t count = 0;
    while (arguments[count])
        count++;
    check(count > 2 && (count - 2) % 3 == 0);
    for (size_t index = 2; index < count; index++)
        check(strspn(arguments[index], "0123456789") == strlen(arguments[index]));
    free(arguments);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int null = -1;
    if (null < 0)
        null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    check(null >= 0);
    const journal log = { .fd = null, .fallback = -1, .level = LEVEL_FATAL, .stage = 1 };
    message wanted;
    /* A copy of exactly this size, so that the sanitizer sees the first byte too many. */
    char *payload = malloc(size ? size : 1);
    check(payload != NULL);
    memcpy(payload, data, size);
    if (size <= MESSAGE_MAX && parse_message(&log, payload, size, &wanted) == 0) {
        check(!(wanted.new_types & ~(uint32_t)NEW_OF_ALL) && wanted.join_count <= TYPES);
        check(!((int)wanted.new_types & wanted.joined_types));
        for (size_t index = 0; index < wanted.join_count; index++)
            check(wanted.joins[index].path[0] != '\0' && wanted.joins[index].fd == -1);
        check_map(wanted.uid_map, size);
        check_map(wanted.gid_map, size);
    }
    free(payload);
    return 0;
}
