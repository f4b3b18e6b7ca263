/*
 * vforker [-c CGROUP.PROCS] PROGRAM ARG...: runs a program out of a child that shares our
 * memory until then (vfork), so that it has done nothing of its own. Says the numbers of the
 * child's minor and major faults by wait4(2), and its process number. With -c the child first
 * moves itself into a cgroup.
 */
#include "workload.h"
#include <sys/wait.h>

static void join(const char *procs)
{
	int fd = open(procs, O_WRONLY);

	if (fd < 0 || write(fd, "0", 1) != 1)
		_exit(126);
	close(fd);
}

static pid_t spawn(char *const *program, const char *procs)
{
	pid_t child = check(vfork(), "vfork");

	if (child)
		return child;
	if (procs)
		join(procs);
	execvp(program[0], program);
	_exit(127);
}

int main(int argc, char **argv)
{
	int joins = argc > 3 && strcmp(argv[1], "-c") == 0, status;
	struct rusage usage;

	if (argc < 2)
		errx(2, "usage: vforker [-c CGROUP.PROCS] PROGRAM ARG...");
	pid_t child = spawn(argv + 1 + 2 * joins, joins ? argv[2] : NULL);
	check(wait4(child, &status, 0, &usage), "wait4");
	printf("%ld %ld %d\n", usage.ru_minflt, usage.ru_majflt, child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
