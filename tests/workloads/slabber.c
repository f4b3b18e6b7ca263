/*
 * slabber CASE COUNT: objects of the kernel's caches, of which the number is known.
 *
 * Prints a line when COUNT of them are there, gives them back when a line comes, prints
 * another, and ends with the next. Before it begins it prints one, and waits, too.
 */
#include "workload.h"
#include <linux/membarrier.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>

#define GIVING_BACK_S 0.2 /* what RCU allows at a tick comes with the next ones */

static long count;
static int *fds;
static char folder[] = "/var/tmp/slabber-XXXXXX";
static int has_folder;
static atomic_int is_over;

static void take_files(long from, long to)
{
	for (long i = from; i < to; i++)
		fds[i] = check(open("/dev/null", O_RDONLY), "open");
}

static void take_eventfds(void)
{
	for (long i = 0; i < count; i++)
		fds[i] = check(eventfd(0, 0), "eventfd");
}

/* What is allocated by timerfd_create() is freed by kfree_rcu(). */
static void take_timerfds(void)
{
	for (long i = 0; i < count; i++)
		fds[i] = check(timerfd_create(CLOCK_MONOTONIC, 0), "timerfd_create");
}

/* Likewise: what is watched by an epoll, and the epoll itself. */
static void take_epolls(void)
{
	struct epoll_event event = {.events = EPOLLIN};
	int watched = check(eventfd(0, 0), "eventfd");

	for (long i = 0; i < count; i++) {
		fds[i] = check(epoll_create1(0), "epoll_create1");
		check(epoll_ctl(fds[i], EPOLL_CTL_ADD, watched, &event), "epoll_ctl");
	}
}

/* Two descriptors each. */
static void take_pipes(void)
{
	for (long i = 0; i < count; i++)
		check(pipe(fds + 2 * i), "pipe");
}

static void take_sockets(void)
{
	for (long i = 0; i < count; i++)
		check(socketpair(AF_UNIX, SOCK_STREAM, 0, fds + 2 * i), "socketpair");
}

/* The kernel remembers each name that is not there; the folder is new, so it has none yet. */
static void take_names(void)
{
	char name[64];
	struct stat status;

	if (!mkdtemp(folder))
		err(1, "mkdtemp");
	has_folder = 1;
	for (long i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "%s/%ld", folder, i);
		if (stat(name, &status) == 0)
			errx(1, "%s is there", name);
	}
}

/* A file open and close, again and again: as many objects, never two at a time. */
static void churn(void)
{
	for (long i = 0; i < count; i++)
		close(check(eventfd(0, 0), "eventfd"));
}

static void *half(void *first)
{
	long from = (long)first;

	take_files(from, from + count / 2);
	return NULL;
}

static void in_threads(void)
{
	pthread_t threads[2];

	for (long i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, half, (void *)(i * (count / 2))))
			errx(1, "pthread_create");
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
}

/* The child's end frees what it had opened. */
static void in_child(void)
{
	pid_t child = check(fork(), "fork");

	if (child == 0) {
		take_files(0, count);
		_exit(0);
	}
	check(waitpid(child, NULL, 0), "waitpid");
}

static void give_back(void)
{
	for (long i = 0; i < 2 * count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (has_folder) /* its names go with it */
		check(rmdir(folder), "rmdir");
}

static void *wait_for_rcu(void *given)
{
	sem_wait(given);
	check(syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0), "membarrier");
	is_over = 1;
	return NULL;
}

/*
 * Keeps its CPU until RCU has given back what it still had. There are hosts that run no BPF
 * program in the tasks of their first process, and then none either in what interrupts these.
 */
static void give_back_alone(void)
{
	struct sched_param first = {.sched_priority = 1};
	pthread_t waiting;
	static sem_t given;
	clock_t end;

	if (pthread_create(&waiting, NULL, wait_for_rcu, &given))
		errx(1, "pthread_create");
	stay_on_this_cpu();
	check(sched_setscheduler(0, SCHED_FIFO, &first), "sched_setscheduler");
	give_back();
	sem_post(&given);
	while (!is_over)
		;
	end = clock() + GIVING_BACK_S * CLOCKS_PER_SEC;
	while (clock() < end)
		;
}

static void say_and_wait(const char *what)
{
	if (write(STDOUT_FILENO, what, strlen(what)) < 0)
		err(1, "stdout");
	if (read(STDIN_FILENO, &(char){0}, 1) < 0)
		err(1, "stdin");
}

int main(int argc, char **argv)
{
	if (argc < 3)
		errx(2, "usage: slabber CASE COUNT");
	struct rlimit open_files;

	check(getrlimit(RLIMIT_NOFILE, &open_files), "getrlimit");
	open_files.rlim_cur = open_files.rlim_max;
	check(setrlimit(RLIMIT_NOFILE, &open_files), "setrlimit");
	count = atol(argv[2]);
	fds = (int *)buffer_of(2 * count * sizeof(*fds));
	memset(fds, 0xff, 2 * count * sizeof(*fds));
	say_and_wait("ready\n");
	if (strcmp(argv[1], "files") == 0)
		take_files(0, count);
	else if (strcmp(argv[1], "eventfds") == 0)
		take_eventfds();
	else if (strcmp(argv[1], "timerfds") == 0)
		take_timerfds();
	else if (strcmp(argv[1], "epolls") == 0)
		take_epolls();
	else if (strcmp(argv[1], "pipes") == 0)
		take_pipes();
	else if (strcmp(argv[1], "sockets") == 0)
		take_sockets();
	else if (strcmp(argv[1], "names") == 0)
		take_names();
	else if (strcmp(argv[1], "churn") == 0)
		churn();
	else if (strcmp(argv[1], "threads") == 0)
		in_threads();
	else if (strcmp(argv[1], "child") == 0)
		in_child();
	else
		errx(2, "no case %s", argv[1]);
	say_and_wait("taken\n");
	give_back_alone();
	say_and_wait("given\n");
	return 0;
}
