package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write what the commands of docs/operate.md print into it")

const operateFile = "../../docs/operate.md"

// Ensure that the commands of docs/operate.md do what stands below them. They
// are run one after the other in one shell, as a reader would; identifiers,
// times and the like may differ.
func TestOperate(t *testing.T) {
	for _, program := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("KEYHOLDER_TEST_ALL") != "" {
				t.Fatalf("%s is needed", program)
			}
			t.Skipf("%s is needed", program)
		}
	}
	text, err := os.ReadFile(operateFile)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := readSteps(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(steps) < 30 {
		t.Fatalf("%d commands found, which cannot be all", len(steps))
	}
	runSteps(t, steps)
	if *update {
		if err := os.WriteFile(operateFile, []byte(writeSteps(string(text), steps)), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, s := range steps {
		if s.skipped {
			continue
		}
		if want, got := sameWords(s.shown), sameWords(s.printed); got != want {
			t.Errorf("line %d: $ %s\nprinted:\n%s\nthe document says:\n%s", s.line, s.command, s.printed, s.shown)
		}
	}
}

// step is one command of the document.
type step struct {
	line    int    // of the command in the document, counted from 1
	lines   int    // how many lines of output stand below it
	command string // without the "$ "
	shown   string // what the document says it prints
	printed string // what it printed
	needs   string // program without which it is skipped
	skipped bool
}

// readSteps takes the commands out of the console blocks of a document.
func readSteps(text string) ([]*step, error) {
	var steps []*step
	var in *step
	block, needs := false, ""
	for i, line := range strings.Split(text, "\n") {
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case !block && strings.HasPrefix(line, "```console"):
			block, in = true, nil
			_, needs, _ = strings.Cut(line, "needs=")
		case block && line == "```":
			block = false
		case block && isCommand:
			in = &step{line: i + 1, command: command, needs: needs}
			steps = append(steps, in)
		case block && in == nil:
			return nil, fmt.Errorf("line %d: output without a command", i+1)
		case block:
			in.shown += line + "\n"
			in.lines++
		}
	}
	return steps, nil
}

// writeSteps puts what was printed into the document.
func writeSteps(text string, steps []*step) string {
	lines := strings.Split(text, "\n")
	for i := len(steps) - 1; i >= 0; i-- {
		s := steps[i]
		if s.skipped {
			continue
		}
		printed := strings.Split(strings.TrimSuffix(s.printed, "\n"), "\n")
		if s.printed == "" {
			printed = nil
		}
		rest := append(printed, lines[s.line+s.lines:]...)
		lines = append(lines[:s.line:s.line], rest...)
	}
	return strings.Join(lines, "\n")
}

// The ports of the document, and the lines of `serve` that name those that
// were free.
var ports = map[string]string{"8443": "issuer", "8444": "api", "8883": "mqtt"}

// marker stands between the outputs of two commands.
const marker = "---keyholder-operate-step---"

// runSteps runs all commands in one shell and notes what each printed. The
// server takes free ports, which stand for those of the document.
func runSteps(t *testing.T, steps []*step) {
	t.Helper()
	var script strings.Builder
	script.WriteString("exec 2>&1\n")
	for _, s := range steps {
		fmt.Fprintf(&script, "echo '%s'\n", marker)
		if s.needs != "" {
			if _, err := exec.LookPath(s.needs); err != nil {
				if os.Getenv("KEYHOLDER_TEST_ALL") != "" {
					t.Fatalf("%s is needed", s.needs)
				}
				s.skipped = true
				continue
			}
		}
		command := s.command
		for port := range ports {
			command = strings.ReplaceAll(command, port, "${PORT_"+port+"}")
		}
		if strings.HasPrefix(command, "keyholder serve") {
			// A reader waits for the three lines; so does the script.
			fmt.Fprintf(&script, "rm -f serve.log\n%s\n", command)
			script.WriteString("for i in $(seq 300); do grep -qs '^mqtt' serve.log && break; sleep 0.1; done\n")
			for port, name := range ports {
				fmt.Fprintf(&script, "PORT_%s=$(sed -n 's/^%s.*://p' serve.log)\n", port, name)
			}
			continue
		}
		fmt.Fprintf(&script, "%s\n", command)
		if command == "keyholder init" {
			script.WriteString("sed -i 's/127.0.0.1:[0-9]*/127.0.0.1:0/' keyholder-data/keyholder.yaml\n")
		}
	}
	fmt.Fprintf(&script, "echo '%s'\nfor p in 8443 8444 8883; do n=PORT_$p; echo \"$p ${!n}\"; done\ncat serve.err\n", marker)

	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	dir := t.TempDir()
	c := exec.CommandContext(ctx, "bash")
	c.Dir, c.Stdin = dir, strings.NewReader(script.String())
	c.Env = append(os.Environ(), "KEYHOLDER_DATA=")
	var out bytes.Buffer
	c.Stdout = &out
	c.WaitDelay = time.Second // a server that was left behind holds no test up
	if err := c.Run(); err != nil {
		t.Fatalf("the shell: %v\n%s", err, out.String())
	}
	printed := strings.Split(out.String(), marker+"\n")
	if len(printed) != len(steps)+2 {
		t.Fatalf("%d outputs of %d commands:\n%s", len(printed)-2, len(steps), out.String())
	}
	for i, s := range steps {
		s.printed = documentPorts(lineEnd.ReplaceAllString(printed[i+1], ""))
	}
	if log, err := os.ReadFile(filepath.Join(dir, "serve.err")); err == nil && bytes.Contains(log, []byte("level=ERROR")) {
		t.Errorf("the server logged an error:\n%s", log)
	}
}

var lineEnd = regexp.MustCompile(`(?m) +$`)

var localPort = regexp.MustCompile(`(?m)^(issuer|api|mqtt)( +\S+localhost:)\d+$`)

// pagePort is the port in an address of a page.
var pagePort = regexp.MustCompile(`(https://localhost:)\d+(/(?:federation|recover))`)

// documentPorts writes the ports of the document for those that were free.
func documentPorts(s string) string {
	s = pagePort.ReplaceAllString(s, "${1}8443${2}")
	return localPort.ReplaceAllStringFunc(s, func(line string) string {
		m := localPort.FindStringSubmatch(line)
		for port, name := range ports {
			if name == m[1] {
				return m[1] + m[2] + port
			}
		}
		return line
	})
}

// variable is what differs from run to run.
var variable = []struct {
	pattern *regexp.Regexp
	word    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(`\b[0-9a-f]{28,32}\b`), "SERIAL"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`\b\d+\.\d ms`), "DURATION"},
	{regexp.MustCompile(`\b[a-z2-7]{5}(-[a-z2-7]{5}){3}\b`), "PASSWORD"},
	{regexp.MustCompile(`\b[a-z2-7]{4}(-[a-z2-7]{4}){3}\b`), "CODE"},
	{regexp.MustCompile(`row \d+ of the audit`), "row N of the audit"},
	{regexp.MustCompile(`whole: \d+ rows`), "whole: N rows"},
	{regexp.MustCompile(`(?m)^queued messages +\d+`), "queued messages N"},
	{regexp.MustCompile(` +`), " "}, // columns are as wide as what is in them
}

// sameWords replaces what differs from run to run.
func sameWords(s string) string {
	for _, v := range variable {
		s = v.pattern.ReplaceAllString(s, v.word)
	}
	return strings.TrimSpace(s)
}

// Ensure that the reader of the document would notice a command or an output
// that it lost.
func TestReadSteps(t *testing.T) {
	const document = "text\n```console\n$ one\nout\n$ two\n```\n```sh\n$ not run\n```\n```console needs=x\n$ three\na\nb\n```\n"
	steps, err := readSteps(document)
	if err != nil || len(steps) != 3 || steps[0].shown != "out\n" || steps[1].shown != "" || steps[2].needs != "x" || steps[2].shown != "a\nb\n" {
		t.Fatalf("%+v, %v", steps, err)
	}
	for _, s := range steps {
		s.printed = s.shown
	}
	if got := writeSteps(document, steps); got != document {
		t.Errorf("writing back what was read gives\n%s", got)
	}
	steps[1].printed = "new\n"
	if got := writeSteps(document, steps); !strings.Contains(got, "$ two\nnew\n```") {
		t.Errorf("the new output is not there:\n%s", got)
	}
	if _, err := readSteps("```console\nout\n```\n"); err == nil {
		t.Error("output without a command was accepted")
	}
}
