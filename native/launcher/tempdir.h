/* tempdir.h: private directories for temporary files, for process isolation only (elsewhere /tmp itself is private).
 *
 *     <root>/scheduler-<pid>-<start time>-<pid namespace>/s0000 ...
 */
#ifndef LAUNCHER_TEMPDIR_H
#define LAUNCHER_TEMPDIR_H

#include <stddef.h>
#include <stdint.h>

/* Removes what dead launchers of this user left, makes this one's directory. 0 or -errno. */
int tempdirs_open(const char *root, const char *name);
void tempdirs_close(const char *root, const char *name);

/* Empties and makes the directory of a slot, owned by uid (0: by the launcher); writes its path. 0 or -errno. */
int tempdir_fresh(const char *root, const char *name, uint32_t slot, uint32_t uid, char *path, size_t bytes);

/* Removes what a stranger made, as far as that goes; it looks at no more than names_max names. For scratch_volume.c too. */
void tempdir_remove_tree(int parent, const char *name, uint64_t names_max);

#endif
