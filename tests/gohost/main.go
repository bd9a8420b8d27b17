// gohost starts a driver binary through HashiCorp's own go-plugin library, as Nomad's driver loader does, and checks
// the process contract and the calls an agent makes before it starts a task. No containerd is needed.
//
// One line per check, `ok NAME` or `FAIL NAME: reason`; the exit status is 1 if one failed.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
)

// deadline bounds one call. Only the checks that name a limit judge speed.
const deadline = 10 * time.Second

// settings are the plugin options that are not left out.
var settings = map[string]string{}

type report struct {
	passed, failed int
	started        time.Time
}

// check runs one check and prints its line; false means that it failed.
func (r *report) check(name string, run func(ctx context.Context) error) bool {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := run(ctx); err != nil {
		r.failed++
		fmt.Printf("FAIL %s: %s\n", name, strings.Join(strings.Fields(err.Error()), " "))
		return false
	}
	r.passed++
	fmt.Printf("ok %s\n", name)
	return true
}

func main() {
	path := flag.String("driver", "", "driver binary to test")
	flag.Func("set", "plugin option as NAME=TEXT for SetConfig, may be repeated", func(option string) error {
		name, value, ok := strings.Cut(option, "=")
		if !ok {
			return fmt.Errorf("%q has no =", option)
		}
		settings[name] = value
		return nil
	})
	mtls := flag.Bool("mtls", false, "also check AutoMTLS, which Nomad does not use")
	flag.Parse()
	if *path == "" || flag.NArg() != 0 {
		flag.Usage()
		os.Exit(2)
	}
	os.Exit(run(*path, *mtls))
}

func run(path string, mtls bool) int {
	if err := compileProtocol(); err != nil {
		fmt.Println("FAIL plugin.proto:", err)
		return 1
	}
	// Sockets go to the temporary directory; an own one shows what is left behind.
	directory, err := os.MkdirTemp("", "gohost")
	if err != nil {
		fmt.Println("FAIL setup:", err)
		return 1
	}
	defer os.RemoveAll(directory)
	os.Setenv("TMPDIR", directory)
	defer goplugin.CleanupClients()

	r := &report{started: time.Now()}
	checks(r, path, directory, mtls)
	fmt.Printf("gohost: %d passed, %d failed in %.1f s\n", r.passed, r.failed, time.Since(r.started).Seconds())
	if r.failed > 0 {
		return 1
	}
	return 0
}
