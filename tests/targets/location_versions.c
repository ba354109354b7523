/* A library that keeps an old version of a function. */
int answer_old(void) { return 41; }
int answer_new(void) { return 42; }
int only_old_1(void) { return 1; }
int plain(void) { return answer_new() + 1; }
__asm__(".symver answer_old, answer@VER_1");
__asm__(".symver answer_new, answer@@VER_2");
__asm__(".symver only_old_1, only_old@VER_1");
