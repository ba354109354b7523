/* A library that comes and goes. */
long plugged(long);
long plugged(long n)
{
    return n * 3 + 1;
}
