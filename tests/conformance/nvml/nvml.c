/* A libnvidia-ml.so.1 that tells what a text file says: for tests on machines without a driver.
 *
 * The variable FAKE_NVML names the file. It is read at every call, so that a test can change what the cards say while a
 * run goes on. One statement a line:
 *
 *   init CODE                      what nvmlInit_v2 returns [0]
 *   driver VERSION                 [580.82.07]
 *   cuda NUMBER                    newest CUDA of the driver, 13000 for 13.0 [13000]
 *   gpu UUID TOTAL RESERVED USED   the next card, in bytes
 *   mig UUID TOTAL USED            an instance of the last card, which thereby is in MIG mode
 *   process CARD PID BYTES         a process that computes on a card; BYTES may be `unknown`; PID may be `@FILE`, where
 *                                  FILE holds the number: no such file, no such process. Counts towards USED, too.
 *   graphics CARD PID BYTES        one that draws
 *   fail CALL CARD CODE            CALL is `handle`, `memory`, `uuid`, `processes` or `mig`; CARD is its number, or `*`
 *
 * Every call is added to the file FAKE_NVML with `.calls` behind its name, as `CALL CARD`.
 * CARD of an instance is `CARD.INSTANCE`.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CARDS = 64, INSTANCES = 8, PROCESSES = 64, FAULTS = 64 };

typedef unsigned long long u64;

struct part {
    int there;
    char uuid[96];
    u64 total, reserved, used;
};

struct process {
    char card[16];
    unsigned pid;
    u64 bytes;
    int draws;
};

struct fault {
    char call[16], card[16];
    int code;
};

static struct world {
    int init, cuda, cards, processes, faults;
    char driver[80];
    struct part card[CARDS], instance[CARDS][INSTANCES];
    struct process process[PROCESSES];
    struct fault fault[FAULTS];
} world;

/* Handles: a card is 1 + number, an instance 1 + number + 100 * (1 + instance). */
typedef void *device;
static device handle(int card, int instance) { return (device)(size_t)(1 + card + 100 * (1 + instance)); }
static int card_of(device handle) { return ((int)(size_t)handle - 1) % 100; }
static int instance_of(device handle) { return ((int)(size_t)handle - 1) / 100 - 1; }

static void name_of(device handle, char *name) {
    if (instance_of(handle) < 0)
        sprintf(name, "%d", card_of(handle));
    else
        sprintf(name, "%d.%d", card_of(handle), instance_of(handle));
}

static struct part *part_of(device handle) {
    int card = card_of(handle), instance = instance_of(handle);
    return instance < 0 ? &world.card[card] : &world.instance[card][instance];
}

static unsigned pid_of(const char *text) {
    unsigned pid = 0;
    if (text[0] != '@')
        return (unsigned)strtoul(text, NULL, 10);
    FILE *file = fopen(text + 1, "r");
    if (file) {
        if (fscanf(file, "%u", &pid) != 1)
            pid = 0;
        fclose(file);
    }
    return pid;
}

static void read_world(void) {
    static char line[1024], word[5][512];
    memset(&world, 0, sizeof world);
    strcpy(world.driver, "580.82.07");
    world.cuda = 13000;
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) {
        world.init = 9;
        return;
    }
    while (fgets(line, sizeof line, file)) {
        int count = sscanf(line, "%511s %511s %511s %511s %511s", word[0], word[1], word[2], word[3], word[4]);
        if (count == 2 && !strcmp(word[0], "init"))
            world.init = atoi(word[1]);
        else if (count == 2 && !strcmp(word[0], "driver"))
            snprintf(world.driver, sizeof world.driver, "%.79s", word[1]);
        else if (count == 2 && !strcmp(word[0], "cuda"))
            world.cuda = atoi(word[1]);
        else if (count == 5 && !strcmp(word[0], "gpu") && world.cards < CARDS) {
            struct part *card = &world.card[world.cards++];
            card->there = 1;
            snprintf(card->uuid, sizeof card->uuid, "%.95s", word[1]);
            card->total = strtoull(word[2], NULL, 10);
            card->reserved = strtoull(word[3], NULL, 10);
            card->used = strtoull(word[4], NULL, 10);
        } else if (count == 4 && !strcmp(word[0], "mig") && world.cards > 0) {
            struct part *instance = world.instance[world.cards - 1];
            while (instance->there)
                instance++;
            instance->there = 1;
            snprintf(instance->uuid, sizeof instance->uuid, "%.95s", word[1]);
            instance->total = strtoull(word[2], NULL, 10);
            instance->used = strtoull(word[3], NULL, 10);
        } else if (count == 4 && (!strcmp(word[0], "process") || !strcmp(word[0], "graphics")) &&
                   world.processes < PROCESSES) {
            struct process *process = &world.process[world.processes];
            snprintf(process->card, sizeof process->card, "%.15s", word[1]);
            process->pid = pid_of(word[2]);
            process->bytes = strcmp(word[3], "unknown") ? strtoull(word[3], NULL, 10) : ~0ull;
            process->draws = word[0][0] == 'g';
            world.processes += process->pid != 0;
        } else if (count == 4 && !strcmp(word[0], "fail") && world.faults < FAULTS) {
            struct fault *fault = &world.fault[world.faults++];
            snprintf(fault->call, sizeof fault->call, "%.15s", word[1]);
            snprintf(fault->card, sizeof fault->card, "%.15s", word[2]);
            fault->code = atoi(word[3]);
        }
    }
    fclose(file);
}

/* Reads what there is, notes the call, and returns the failure that it is to have. */
static int called(const char *call, device handle) {
    char name[16], path[4096];
    read_world();
    name_of(handle, name);
    snprintf(path, sizeof path, "%s.calls", getenv("FAKE_NVML") ? getenv("FAKE_NVML") : "/dev/null");
    FILE *calls = fopen(path, "a");
    if (calls) {
        fprintf(calls, "%s %s\n", call, name);
        fclose(calls);
    }
    for (int i = 0; i < world.faults; i++)
        if (!strcmp(world.fault[i].call, call) &&
            (!strcmp(world.fault[i].card, "*") || !strcmp(world.fault[i].card, name)))
            return world.fault[i].code;
    return 0;
}

int nvmlInit_v2(void) {
    read_world();
    return world.init;
}

int nvmlShutdown(void) { return 0; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    read_world();
    snprintf(version, length, "%s", world.driver);
    return 0;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    read_world();
    *version = world.cuda;
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    read_world();
    *count = (unsigned)world.cards;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *found) {
    int code = called("handle", handle((int)index, -1));
    if (code)
        return code;
    if (index >= (unsigned)world.cards)
        return 2;
    *found = handle((int)index, -1);
    return 0;
}

int nvmlDeviceGetName(device card, char *name, unsigned length) {
    (void)card;
    snprintf(name, length, "NVIDIA Paper 9000");
    return 0;
}

int nvmlDeviceGetCudaComputeCapability(device card, int *major, int *minor) {
    (void)card;
    *major = 9;
    *minor = 0;
    return 0;
}

int nvmlDeviceGetUUID(device card, char *uuid, unsigned length) {
    int code = called("uuid", card);
    if (!code)
        snprintf(uuid, length, "%s", part_of(card)->uuid);
    return code;
}

int nvmlDeviceGetMigMode(device card, unsigned *current, unsigned *pending) {
    int code = called("mig", card);
    *current = *pending = world.instance[card_of(card)][0].there;
    return code;
}

int nvmlDeviceGetMaxMigDeviceCount(device card, unsigned *count) {
    (void)card;
    *count = INSTANCES - 1;
    return 0;
}

int nvmlDeviceGetMigDeviceHandleByIndex(device card, unsigned index, device *found) {
    read_world();
    if (index >= INSTANCES || !world.instance[card_of(card)][index].there)
        return 6;
    *found = handle(card_of(card), (int)index);
    return 0;
}

struct memory {
    unsigned version;
    u64 total, reserved, free, used;
};

static int is_on(const struct process *process, device card, int draws) {
    char name[16];
    name_of(card, name);
    return process->draws == draws && !strcmp(process->card, name);
}

int nvmlDeviceGetMemoryInfo_v2(device card, struct memory *memory) {
    int code = called("memory", card);
    if (code)
        return code;
    if (memory->version != (sizeof *memory | 2u << 24))
        return 25;
    struct part *part = part_of(card);
    memory->total = part->total;
    memory->reserved = part->reserved;
    memory->used = part->used;
    for (int i = 0; i < world.processes; i++)
        if (is_on(&world.process[i], card, 0) && world.process[i].bytes != ~0ull)
            memory->used += world.process[i].bytes;
    memory->free = part->total - part->reserved - memory->used;
    return 0;
}

struct info {
    unsigned pid;
    u64 bytes;
    unsigned instance, compute;
};

static int processes(device card, unsigned *count, struct info *infos, int draws) {
    int code = called("processes", card);
    if (code)
        return code;
    unsigned room = *count, found = 0;
    for (int i = 0; i < world.processes; i++)
        if (is_on(&world.process[i], card, draws)) {
            if (infos && found < room) {
                struct info info = {world.process[i].pid, world.process[i].bytes, ~0u, ~0u};
                infos[found] = info;
            }
            found++;
        }
    *count = found;
    return found > room ? 7 : 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device card, unsigned *count, struct info *infos) {
    return processes(card, count, infos, 0);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device card, unsigned *count, struct info *infos) {
    return processes(card, count, infos, 1);
}
