/* A second file with a static function of the same name, and data with the same name. */
static volatile int static_data = 9;

__attribute__((noinline)) static int helper(int x) { return x - static_data; }

int location_other(int x) { return helper(x) + helper(x + 1); }
