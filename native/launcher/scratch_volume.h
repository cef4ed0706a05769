/* scratch_volume.h: one /tmp on disk: a sparse file without a name, a loop device on it, an ext4 in that, one encrypted directory.
 *
 * Nothing of it has a name on the host: the file has none (O_TMPFILE), the device lets go of it with the last mount (autoclear), the
 * mounts are in the mount namespace of the process that made them, and so are the sandbox's. Whoever is killed, the kernel takes all of
 * it back, and there is nothing to clean up after a crash.
 *
 * The key is 64 random bytes that go into the kernel and are forgotten here. What the device holds is ciphertext from the first byte on,
 * names too. A volume is never mounted after its process: a stranger reaches ext4 by system calls only, never by bytes on a disk.
 *
 * Everything here blocks on disks and on the kernel, so it runs in a keeper (scratch_keeper.c), never in the launcher. int results are
 * 0, a descriptor, or -errno; *step names what failed.
 */
#ifndef LAUNCHER_SCRATCH_VOLUME_H
#define LAUNCHER_SCRATCH_VOLUME_H

#include <stdbool.h>
#include <stdint.h>

enum { VOLUME_KEY_ID_BYTES = 16, VOLUME_TEMPLATES_MAX = 8 };

/* Where volumes are made. Opened once a process. */
struct volume_place {
    int directory;            /* of the disk */
    int staging;              /* an empty tmpfs of this process' own, mounted over it: one directory a volume */
    int control;              /* /dev/loop-control */
    struct volume_template {
        uint32_t size_mb;     /* 0: free */
        int file;             /* a file system just made, mostly holes */
        uint64_t bytes;
        uint64_t used_at;
    } templates[VOLUME_TEMPLATES_MAX];
    uint64_t uses;
};

struct volume {
    uint32_t size_mb;         /* 0: there is none */
    uint32_t number;          /* its name in the staging directory */
    int file;
    int root;                 /* of the file system */
    uint64_t inodes, blocks;  /* used while empty */
    uint64_t disk_blocks;     /* of 512 bytes, of the file while empty */
    uint8_t key_id[VOLUME_KEY_ID_BYTES];
};

/* Makes this process' mount namespace its own. */
int volume_place_open(struct volume_place *place, const char *directory, const char **step);

/* A volume of which at least size_mb can be filled, without a key. volume->number is the caller's choice, its own among the living. */
int volume_make(struct volume_place *place, struct volume *volume, uint32_t number, uint32_t size_mb, const char **step);

/* A new directory under a new key: a detached mount of it. */
int volume_lock(struct volume *volume, const char **step);

/* The occupant has ended: empties it, takes the key out of the kernel. false: it is too full for that, or still in use, and can only
 * be dropped. */
bool volume_reuse(struct volume *volume);

/* Whatever is in it goes, what was not written yet is not written any more. */
void volume_drop(struct volume_place *place, struct volume *volume);

#endif
