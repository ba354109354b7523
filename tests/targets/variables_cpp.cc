// Variables of C++, for who reads debug information.
#include <array>
#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace shapes {

enum class Kind : unsigned char { round, square = 7 };

struct Base {
    virtual ~Base() = default;
    virtual double area() const { return 0; }
    int id = 1;
    static int made;
};
int Base::made = 0;

struct Named {
    explicit Named(std::string name) : name(std::move(name)) {}
    virtual ~Named() = default;
    std::string name;
};

class Circle : public Base, public Named {
public:
    Circle(double radius, const std::string &name) : Named(name), radius_(radius)
    {
        id = 2;
        ++made;
    }
    __attribute__((noinline)) double area() const override
    {
        double square = radius_ * radius_;
        return square * 3; // area
    }
    __attribute__((noinline)) int grow(int by) &;
    __attribute__((noinline)) int grow(double by);

private:
    double radius_;
    Kind kind_ = Kind::square;
};

int Circle::grow(int by) &
{
    radius_ += by; // by an int
    return static_cast<int>(radius_);
}

int Circle::grow(double by)
{
    radius_ += by; // by a double
    return static_cast<int>(radius_);
}

namespace {
long hidden = 12;
}

struct Left : virtual Base {
    int left = 10;
};
struct Right : virtual Base {
    int right = 20;
};
struct Both : Left, Right {
    int both = 30;
};

template <typename T> struct Box {
    T value;
    T *at = nullptr;
    __attribute__((noinline)) T get(T more) const
    {
        T sum = value + more;
        return sum; // boxed
    }
};

} // namespace shapes

struct Copied {
    int value;
    explicit Copied(int v) : value(v) {}
    Copied(const Copied &other) : value(other.value + 1) {}
};

__attribute__((noinline)) static int by_value(Copied copied, std::string text, const int &reference)
{
    int sum = copied.value + static_cast<int>(text.size()) + reference;
    return sum; // by value
}

__attribute__((noinline)) static long containers(const std::vector<int> &numbers,
                                                 const std::map<std::string, int> &ages,
                                                 std::shared_ptr<shapes::Circle> shared)
{
    std::string small = "small";
    std::string large = "a string that is longer than fifteen characters";
    std::vector<std::string> words = { small, large, "" };
    std::vector<bool> bits = { true, false, true };
    std::set<long> some = { 3, 1, 2 };
    std::unordered_map<int, std::string> table = { { 7, "seven" } };
    std::unique_ptr<int> owned(new int(42));
    std::pair<int, const char *> two(1, "two");
    std::array<short, 3> three = { 1, 2, 3 };
    std::weak_ptr<shapes::Circle> weak = shared;
    std::vector<int> empty;
    long sum = static_cast<long>(words.size() + bits.size() + some.size() + table.size());
    for (int each : numbers) {
        sum += each; // in the range
    }
    for (const auto &[name, age] : ages) {
        sum += age + static_cast<long>(name.size()); // bound
    }
    auto add = [&sum, two](int more) {
        sum += more + two.first; // in the lambda
        return sum;
    };
    add(*owned + three[2]);
    return sum + shared->id + static_cast<long>(empty.size()); // all of them
}

int main(int argc, char **argv)
{
    auto circle = std::make_shared<shapes::Circle>(1.5 * argc, "circle");
    shapes::Both both;
    shapes::Box<int> box = { 5, &both.both };
    shapes::Box<double> real = { 2.5 };
    int grown = circle->grow(2);
    grown += circle->grow(0.5);
    shapes::hidden += grown;
    std::map<std::string, int> ages = { { "ann", 30 }, { "bob", 40 } };
    long sum = containers({ 1, 2, 3, 5 }, ages, circle);
    sum += by_value(Copied(3), argv[0], argc);
    sum += box.get(3) + static_cast<long>(real.get(0.25));
    try {
        if (argc > 0)
            throw std::runtime_error("thrown");
    } catch (const std::exception &error) {
        sum += error.what()[0]; // caught
    }
    std::printf("%ld %f %d\n", sum + shapes::hidden, circle->area(), both.id + both.both);
    return 0;
}
