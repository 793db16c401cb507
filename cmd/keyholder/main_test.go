package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/fds-keyholder/keyholder"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"keyholder": main, "provider-api": providerAPI})
}

// Ensure that the stories in testdata/script hold for the real program. Each
// begins with a folder of its own; those that need a server start a real one.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    scriptExits,
			"capture":  scriptCapture,
			"wait-for": scriptWaitFor,
			"any-port": scriptAnyPort,
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("KEYHOLDER_DATA", "D")
			return nil
		},
		RequireUniqueNames: true,
	})
}

// scriptExits is `exits CODE PROGRAM ARGS...`: the program must end with that
// exit code.
func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("run %s: %v", args[1], err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("%s ended with %d, want %s\n%s", args[1], code, args[0], ts.ReadFile("stderr"))
	}
}

// scriptCapture is `capture NAME FILE [PATTERN]`: the variable becomes the
// first line of the file, or what the first group of the pattern matches.
// FILE may be stdout or stderr.
func scriptCapture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: capture NAME FILE [PATTERN]")
	}
	pattern := `(?m)\A(.*)$`
	if len(args) == 3 {
		pattern = "(?m)" + args[2]
	}
	found := regexp.MustCompile(pattern).FindStringSubmatch(ts.ReadFile(args[1]))
	if len(found) < 2 || found[1] == "" {
		ts.Fatalf("%s does not match %s", args[1], pattern)
	}
	ts.Setenv(args[0], found[1])
}

// scriptWaitFor is `wait-for FILE TEXT`: until the file holds the text.
func scriptWaitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: wait-for FILE TEXT")
	}
	if !waitFor(ts.MkAbs(args[0]), args[1]) {
		content, _ := os.ReadFile(ts.MkAbs(args[0]))
		ts.Fatalf("%s never held %q but\n%s", args[0], args[1], content)
	}
}

// waitFor waits until a file holds a text.
func waitFor(path, text string) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), text) {
			return true
		}
		select {
		case <-tick.C:
		case <-deadline:
			return false
		}
	}
}

// scriptAnyPort is `any-port FILE`: the configuration takes free ports.
func scriptAnyPort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: any-port FILE")
	}
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	b = regexp.MustCompile(`127\.0\.0\.1:(8443|8444|8883)`).ReplaceAll(b, []byte("127.0.0.1:0"))
	ts.Check(os.WriteFile(path, b, 0o600))
}

// call runs a command line in this process.
func call(args ...string) (code int, stdout, stderr string) {
	var out, diag bytes.Buffer
	env := &environment{stdin: strings.NewReader(""), stdout: &out, stderr: &diag,
		getenv: func(string) string { return "" }, now: time.Now}
	code = run(context.Background(), env, args)
	return code, out.String(), diag.String()
}

// Ensure that every command explains itself on standard output, with a
// synopsis and an example, by three spellings.
func TestHelp(t *testing.T) {
	_, overview, _ := call("help")
	for _, c := range commands() {
		words := strings.Fields(c.name)
		if !strings.Contains(overview, "\n  "+words[0]) {
			t.Errorf("%s is not in the overview", words[0])
		}
		for _, args := range [][]string{append([]string{"help"}, words...), append(words, "-h"), append(words, "--help")} {
			code, out, diag := call(args...)
			if code != 0 || diag != "" {
				t.Errorf("%v: exit %d, %s", args, code, diag)
			}
			if !strings.HasPrefix(out, "usage: keyholder "+c.name) || !strings.Contains(out, "\nexample:\n  $ keyholder "+words[0]) {
				t.Errorf("%v:\n%s", args, out)
			}
			for i, line := range strings.Split(out, "\n") {
				if len(line) > 80 && i > 0 && !strings.HasPrefix(line, "  ") {
					t.Errorf("%v: line %d is wider than 80", args, i+1)
				}
			}
		}
	}
}

// Ensure that an argument that nobody knows is an error of use everywhere,
// and that nothing is printed to standard output.
func TestStrangeFlag(t *testing.T) {
	for _, c := range commands() {
		code, out, diag := call(append(strings.Fields(c.name), "-no-such-flag")...)
		if code != exitUsage || out != "" || !strings.Contains(diag, "there is no flag -no-such-flag") || !strings.Contains(diag, "hint: ") {
			t.Errorf("%s: exit %d, %q, %q", c.name, code, out, diag)
		}
	}
}

// Ensure that each kind of error gets its exit code, its words and its hint.
func TestReport(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code int
		text string
	}{
		{nil, 0, ""},
		{errHelp, 0, ""},
		{errNo, 1, ""},
		{&usageError{"d", "h"}, 2, "keyholder: d\nhint: h\n"},
		{&usageError{"d", ""}, 2, "keyholder: d\n"},
		{keyholder.Errorf(keyholder.Invalid, "d").WithHint("h"), 2, "keyholder: d\nhint: h\n"},
		{keyholder.Errorf(keyholder.Denied, "d"), 1, "keyholder: d\n"},
		{keyholder.Errorf(keyholder.NotFound, "d"), 1, "keyholder: d\n"},
		{keyholder.Errorf(keyholder.Conflict, "d"), 1, "keyholder: d\n"},
		{fmt.Errorf("wrapped: %w", keyholder.Errorf(keyholder.Unavailable, "d")), 3, "keyholder: d\n"},
		{errors.New("disk"), 3, "keyholder: disk\n"},
	} {
		var diag bytes.Buffer
		if code := report(&environment{stderr: &diag}, tt.err); code != tt.code || diag.String() != tt.text {
			t.Errorf("%v: %d %q", tt.err, code, diag.String())
		}
	}
}

// Ensure that times on the command line are read as they are meant.
func TestTimes(t *testing.T) {
	for s, want := range map[string]string{
		"2027-01-31": "2027-01-31T00:00:00Z", "2027-01-31T12:00:00+02:00": "2027-01-31T10:00:00Z",
		"31.01.2027": "", "2027-02-30": "", "": "", "now": "",
	} {
		var v timeValue
		err := v.Set(s)
		if (err == nil) != (want != "") || err == nil && v.at.UTC().Format(time.RFC3339) != want {
			t.Errorf("%q: %v, %v", s, v.at, err)
		}
	}
	for s, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "12h": 12 * time.Hour, "90m": 90 * time.Minute,
		"": 0, "30": 0, "0d": 0, "-1d": 0, "-5h": 0, "9999999d": 0, "1.5d": 0, "d": 0,
	} {
		if got, err := parseDays(s); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
}

// FuzzDispatch: no command line makes the program panic or print to standard
// output what is not help. Commands that act are left out: they would.
func FuzzDispatch(f *testing.F) {
	for _, s := range []string{"", "help", "help cert issue", "cert", "provider add -name", "cut subscription x -reason y", "expiring -within 30d", "-data D", "help help", "why -h -h", "audit list -after -1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, " ")
		for _, acting := range []string{"init", "serve", "demo", "check", "key", "request"} {
			for _, a := range args {
				if a == acting {
					t.Skip()
				}
			}
		}
		code, out, diag := call(args...)
		if code < 0 || code > 3 || (code == 0) != (diag == "") && code != exitNo {
			t.Errorf("%q: exit %d\n%s\n%s", args, code, out, diag)
		}
	})
}
