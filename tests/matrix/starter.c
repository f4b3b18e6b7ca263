/*
 * starter ARGUMENT...: memtap, without the seconds that Python takes in emulation to begin.
 *
 * Hands its arguments, folder, environment and standard streams to starter.py, which has
 * everything imported and forks. Passes signals on, and ends as that ends; whoever kills it
 * kills that too.
 *
 * The request is one message: the numbers of arguments and of variables, and then all of them
 * and the folder, each with a NUL behind it. Answers are the process's number, and its exit
 * status.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET "/run/starter"

extern char **environ;
static volatile int32_t process;

static void pass_on(int number)
{
	kill(process, number);
}

static void put(FILE *to, const char *text)
{
	fwrite(text, strlen(text) + 1, 1, to);
}

static void request(int fd, int argc, char **argv)
{
	char *text, folder[4096];
	size_t size;
	FILE *to = open_memstream(&text, &size);
	int32_t counts[2] = {argc - 1, 0};
	int streams[3] = {0, 1, 2};
	char control[CMSG_SPACE(sizeof(streams))] = {0};

	while (environ[counts[1]])
		counts[1]++;
	fwrite(counts, sizeof(counts), 1, to);
	for (int i = 1; i < argc; i++)
		put(to, argv[i]);
	for (int i = 0; i < counts[1]; i++)
		put(to, environ[i]);
	put(to, getcwd(folder, sizeof(folder)) ?: "/");
	fclose(to);

	struct iovec part = {text, size};
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);

	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(streams));
	memcpy(CMSG_DATA(head), streams, sizeof(streams));
	if (sendmsg(fd, &message, 0) < 0)
		err(1, "sendmsg");
}

static int32_t answer(int fd)
{
	int32_t number;
	ssize_t size;

	do
		size = recv(fd, &number, sizeof(number), 0);
	while (size < 0 && errno == EINTR);
	if (size != sizeof(number))
		errx(1, "no answer");
	return number;
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET};
	struct sigaction action = {.sa_handler = pass_on};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		err(1, "%s", SOCKET);
	request(fd, argc, argv);
	process = answer(fd);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	return answer(fd);
}
