// A Go program: goroutines whose stacks are moved while functions run on them, and which go from
// thread to thread; functions that are left by a panic and by the end of their goroutine.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"sync"
)

const (
	goroutines = 20
	depth      = 60
)

var failed bool

//go:noinline
func leaf(n int) int { return n + 1 }

// deep has a frame that a new goroutine's stack holds a few times.
//
//go:noinline
func deep(n int) int {
	var pad [64]int
	if n == 0 {
		return leaf(1)
	}
	pad[n%64] = n
	return deep(n-1) + pad[n%64] - n + 1
}

// moved is entered on a small stack, and left on a large one.
//
//go:noinline
func moved(n int) int { return deep(n) + leaf(0) }

// travels is left in another thread than it was entered in, more often than not.
//
//go:noinline
func travels(c chan int) int {
	sum := 0
	for i := 0; i < 10; i++ {
		runtime.Gosched()
		sum += <-c
	}
	return sum
}

//go:noinline
func panics(n int) int {
	if n%2 == 1 {
		panic("odd")
	}
	return n
}

//go:noinline
func recovers(n int) (result int) {
	defer func() {
		if recover() != nil {
			result = -1
		}
	}()
	return panics(n)
}

//go:noinline
func exits() int {
	runtime.Goexit()
	return 0
}

func check(what string, ok bool) {
	if !ok {
		failed = true
		fmt.Println("FAILED", what)
	}
}

func all(work func(int)) {
	var group sync.WaitGroup
	for i := 0; i < goroutines; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			work(i)
		}(i)
	}
	group.Wait()
}

func main() {
	input := bufio.NewReader(os.Stdin)
	fmt.Println("ready")
	input.ReadString('\n')
	all(func(int) { check("moved", moved(depth) == 2+depth+1) })
	runtime.GC() // stacks of goroutines that wait are made smaller
	all(func(int) {
		c := make(chan int)
		go func() {
			for i := 0; i < 10; i++ {
				runtime.Gosched()
				c <- i
			}
		}()
		check("travels", travels(c) == 45)
	})
	for i := 0; i < 10; i++ {
		want := i
		if i%2 == 1 {
			want = -1
		}
		check("recovers", recovers(i) == want)
	}
	all(func(int) { exits() })
	fmt.Println("calls", leaf(0))
	fmt.Println("stopped")
	input.ReadString('\n')
	if !failed {
		fmt.Println("OK")
	}
}
