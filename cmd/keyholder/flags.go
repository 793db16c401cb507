package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder/internal/console"
)

// defaultData is the data folder where neither -data nor KEYHOLDER_DATA names
// one.
const defaultData = "keyholder-data"

// flags is the flag set of one command: the standard one, with positional
// arguments before or after the flags, no flag twice, and help that ends in
// an example.
type flags struct {
	*flag.FlagSet
	env        *environment
	text       string   // what the command does, and an example
	positional []string // names of the arguments
	required   []string // names of flags that must be given
	data       *string  // nil: the command talks to no server
	json       *bool    // nil: the command has no -json
}

// newFlags returns the flags of a command. positional names its arguments.
func newFlags(env *environment, name, text string, positional ...string) *flags {
	f := &flags{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError), env: env, text: text, positional: positional}
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	return f
}

// server adds -data.
func (f *flags) server() *flags {
	f.data = f.value("data", "`DIR`: data folder of the server (default $KEYHOLDER_DATA or ./"+defaultData+")")
	return f
}

// reading adds -json.
func (f *flags) reading() *flags {
	f.json = f.Bool("json", false, "print JSON")
	return f
}

// value adds a flag that takes a text and may stand once.
func (f *flags) value(name, usage string) *string {
	v := &onceValue{}
	f.Var(v, name, usage)
	return &v.text
}

// need adds a flag that takes a text and must stand once.
func (f *flags) need(name, usage string) *string {
	f.required = append(f.required, name)
	return f.value(name, usage)
}

// values adds a flag that takes a text and may be repeated.
func (f *flags) values(name, usage string) *[]string {
	v := &listValue{}
	f.Var(v, name, usage+" (may be repeated)")
	return &v.texts
}

// time adds a flag that takes a date or a time and may stand once.
func (f *flags) time(name, usage string) *time.Time {
	v := &timeValue{}
	f.Var(v, name, usage)
	return &v.at
}

// parse reads the command line and returns the positional arguments.
func (f *flags) parse(args []string) ([]string, error) {
	var found []string
	for {
		if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
			f.printHelp()
			return nil, errHelp
		} else if err != nil {
			return nil, f.wrong(f.explain(err.Error()))
		}
		if f.NArg() == 0 {
			break
		}
		found, args = append(found, f.Arg(0)), f.Args()[1:]
	}
	if len(found) < len(f.positional) {
		return nil, f.wrong(f.positional[len(found)] + " is missing")
	}
	if len(found) > len(f.positional) {
		return nil, f.wrong(fmt.Sprintf("%.60q is one argument too many", found[len(f.positional)]))
	}
	for i, s := range found {
		if s == "" {
			return nil, f.wrong(f.positional[i] + " is empty")
		}
	}
	given := map[string]bool{}
	f.Visit(func(g *flag.Flag) { given[g.Name] = true })
	for _, name := range f.required {
		if !given[name] {
			return nil, f.wrong("-" + name + " is missing")
		}
	}
	return found, nil
}

// wrong is an error in the command line, with the way to the help.
func (f *flags) wrong(detail string) error {
	return &usageError{f.Name() + ": " + detail, "`keyholder help " + f.Name() + "` explains it"}
}

// explain turns an error of package flag into words.
func (f *flags) explain(text string) string {
	name, unknown := strings.CutPrefix(text, "flag provided but not defined: ")
	if !unknown {
		return text
	}
	var known []string
	f.VisitAll(func(g *flag.Flag) { known = append(known, "-"+g.Name) })
	if meant := guess(name, known, ""); meant != "" {
		return fmt.Sprintf("there is no flag %.40s; %s", name, strings.TrimSpace(meant))
	}
	return fmt.Sprintf("there is no flag %.40s", name)
}

// printHelp writes the command's help to standard output.
func (f *flags) printHelp() {
	var synopsis, list strings.Builder
	for _, p := range f.positional {
		synopsis.WriteString(" " + p)
	}
	f.VisitAll(func(g *flag.Flag) {
		placeholder, usage := flag.UnquoteUsage(g)
		if b, ok := g.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
			placeholder = ""
		}
		flagText := strings.TrimSpace("-" + g.Name + " " + placeholder)
		usage = strings.TrimPrefix(usage, placeholder+": ")
		if f.isRequired(g.Name) {
			synopsis.WriteString(" " + flagText)
		}
		fmt.Fprintf(&list, "  %-20s %s\n", flagText, usage)
	})
	if list.Len() > 0 {
		synopsis.WriteString(" [flags]")
		list.WriteString("\n")
	}
	what, example, _ := strings.Cut(strings.TrimSpace(f.text), "\nexample:\n")
	fmt.Fprintf(f.env.stdout, "usage: keyholder %s%s\n\n%s\n\n%sexample:\n%s\n", f.Name(), synopsis.String(), strings.TrimSpace(what), list.String(), example)
}

func (f *flags) isRequired(name string) bool {
	for _, r := range f.required {
		if r == name {
			return true
		}
	}
	return false
}

// dataFolder returns the data folder that the command line names.
func (f *flags) dataFolder() string {
	if *f.data != "" {
		return *f.data
	}
	if dir := f.env.getenv("KEYHOLDER_DATA"); dir != "" {
		return dir
	}
	return defaultData
}

// dial returns a client of the server. The caller closes it.
func (f *flags) dial() (*console.Client, error) { return console.Dial(f.dataFolder()) }

// connect is parse and then dial, for commands that have nothing to look at in
// between.
func (f *flags) connect(args []string) (*console.Client, []string, error) {
	positional, err := f.parse(args)
	if err != nil {
		return nil, nil, err
	}
	c, err := f.dial()
	return c, positional, err
}

// onceValue is a text that may be given once, so that of two nobody has to
// guess which one counted.
type onceValue struct {
	text string
	set  bool
}

func (v *onceValue) String() string { return v.text }

// Set takes the text.
func (v *onceValue) Set(s string) error {
	if v.set {
		return errors.New("the flag stands more than once")
	}
	if s == "" {
		return errors.New("it is empty")
	}
	v.text, v.set = s, true
	return nil
}

type listValue struct {
	texts []string
}

func (v *listValue) String() string { return strings.Join(v.texts, " ") }

// Set takes one of the texts.
func (v *listValue) Set(s string) error {
	if s == "" {
		return errors.New("it is empty")
	}
	v.texts = append(v.texts, s)
	return nil
}

type timeValue struct {
	at time.Time
}

func (v *timeValue) String() string { return "" }

// Set takes a date, which is its beginning in UTC, or a time as in RFC 3339.
func (v *timeValue) Set(s string) error {
	if !v.at.IsZero() {
		return errors.New("the flag stands more than once")
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			v.at = t
			return nil
		}
	}
	return errors.New("write a date as 2027-01-31, or a time as 2027-01-31T12:00:00Z")
}
