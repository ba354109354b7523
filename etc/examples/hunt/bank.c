/* A bank that loses money: the program that hunt.py hunts in.
 *
 *     bank VISITORS      so many visitors at each desk; status 0 if all their money is in the books
 *
 * Tellers take money at their desks and post it to accounts. A clock looks around now and then and
 * notes when it last saw each desk's visitor. One lock keeps all of it in order, so nothing here is
 * a race; somewhere a pointer outlives what it points to. (To hunt for yourself, do not read on.)
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DESKS 4
#define ACCOUNTS 8
#define EARLY 20
/* Every account begins with these eight bytes, as long as it is one. */
#define MARK "ACCOUNT"

struct account {
	char mark[8];
	long balance;
	char owner[32];
};

struct visit {
	unsigned long seen;
	long money;
	char visitor[32];
};

struct desk {
	struct visit *visit;
	int closes_after;
	pthread_t teller;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct desk desks[DESKS];
static struct account *accounts[ACCOUNTS];
static int account_count;
static long taken, lost;

static void open_account(const char *owner)
{
	struct account *account = malloc(sizeof(*account));

	memcpy(account->mark, MARK, sizeof(account->mark));
	account->balance = 0;
	snprintf(account->owner, sizeof(account->owner), "%s", owner);
	accounts[account_count++] = account;
}

/* Add to an account. What is not an account takes no money. */
int post(struct account *account, long money)
{
	if (memcmp(account->mark, MARK, sizeof(account->mark)) != 0)
		return -1;
	account->balance += money;
	return 0;
}

static void begin_visit(struct desk *desk, long money)
{
	struct visit *visit = malloc(sizeof(*visit));

	visit->seen = time(NULL);
	visit->money = money;
	snprintf(visit->visitor, sizeof(visit->visitor), "visitor %ld", money);
	desk->visit = visit;
}

static void end_visit(struct desk *desk)
{
	struct visit *visit = desk->visit;

	taken += visit->money;
	if (post(accounts[visit->money % account_count], visit->money) != 0)
		lost += visit->money;
	desk->visit = NULL;
	free(visit);
}

/* Who stands at the desk is sent away, and its teller has time for a new client. */
static void close_early(struct desk *desk)
{
	free(desk->visit);
	open_account("late client");
}

static void *teller(void *argument)
{
	struct desk *desk = argument;

	pthread_mutex_lock(&lock);
	for (long money = 1;; money++) {
		begin_visit(desk, money);
		pthread_mutex_unlock(&lock);
		usleep(1000);
		pthread_mutex_lock(&lock);
		if (desk == &desks[DESKS - 1] && money == EARLY) {
			close_early(desk);
			break;
		}
		end_visit(desk);
		if (money == desk->closes_after)
			break;
	}
	pthread_mutex_unlock(&lock);
	return NULL;
}

/* This visitor is here at this time. */
void see(struct visit *visit, unsigned long now)
{
	visit->seen = now;
}

static void *look_around(void *unused)
{
	for (;;) {
		usleep(20000);
		pthread_mutex_lock(&lock);
		for (int number = 0; number < DESKS; number++)
			if (desks[number].visit != NULL)
				see(desks[number].visit, time(NULL));
		pthread_mutex_unlock(&lock);
	}
	return unused;
}

int main(int argc, char **argv)
{
	int visitors = argc > 1 ? atoi(argv[1]) : 1000;
	long booked = 0;
	pthread_t watch;

	for (int number = 1; number < ACCOUNTS; number++) {
		char owner[32];

		snprintf(owner, sizeof(owner), "client %d", number);
		open_account(owner);
	}
	for (int number = 0; number < DESKS; number++) {
		desks[number].closes_after = visitors;
		pthread_create(&desks[number].teller, NULL, teller, &desks[number]);
		pthread_setname_np(desks[number].teller, "teller");
	}
	pthread_create(&watch, NULL, look_around, NULL);
	pthread_setname_np(watch, "clock");
	for (int number = 0; number < DESKS; number++)
		pthread_join(desks[number].teller, NULL);

	pthread_mutex_lock(&lock);
	for (int number = 0; number < account_count; number++)
		booked += accounts[number]->balance;
	printf("taken %ld, in the books %ld, lost %ld\n", taken, booked, lost);
	return booked == taken ? 0 : 1;
}
