/*
 * The pod sandbox's first process: it holds the pod's namespaces open, buries
 * the orphans that a shared PID namespace hands to it, and goes when told.
 */
#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    sigset_t watched;
    int received;

    sigemptyset(&watched);
    sigaddset(&watched, SIGINT);
    sigaddset(&watched, SIGTERM);
    sigaddset(&watched, SIGCHLD);
    /* Blocked and fetched one by one, no signal can arrive unnoticed. */
    if (sigprocmask(SIG_BLOCK, &watched, NULL) != 0)
        return 1;
    for (;;) {
        if (sigwait(&watched, &received) != 0)
            return 2;
        if (received != SIGCHLD)
            return 0;
        while (waitpid(-1, NULL, WNOHANG) > 0)
            continue;
    }
}
