package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fds-keyholder/keyholder/internal/console"
)

// noun is what `list` and `show` of one kind of thing need.
type noun[T any] struct {
	name    string // as in the command
	plural  string
	key     string // what names one of them: ID, or SERIAL
	list    func(*console.Client, context.Context) ([]T, error)
	show    func(*console.Client, context.Context, string) (T, error)
	columns []column[T]
	more    func(io.Writer, T, time.Time) // printed by show below the columns; may be nil
	help    string                        // further lines for the help; may be empty
	example string                        // lines that `list` prints
}

// column is one property of a thing.
type column[T any] struct {
	title string
	text  func(T, time.Time) string // the time is now
	wide  bool                      // only in show
}

// runList prints all of them, as a table or as JSON.
func (n noun[T]) runList(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, n.name+" list", fmt.Sprintf(`
Lists all %s, the oldest first.
%s

example:
  $ keyholder %s list
%s`, n.plural, n.help, n.name, n.example)).server().reading()
	c, _, err := f.connect(args)
	if err != nil {
		return err
	}
	defer c.Close()
	all, err := n.list(c, ctx)
	if err != nil {
		return err
	}
	if *f.json {
		return printJSON(env.stdout, all)
	}
	if len(all) == 0 {
		fmt.Fprintf(env.stderr, "no %s yet\n", n.plural)
		return nil
	}
	return n.printTable(env.stdout, all, env.now())
}

func (n noun[T]) printTable(w io.Writer, all []T, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(text func(column[T]) string) {
		var cells []string
		for _, c := range n.columns {
			if !c.wide {
				cells = append(cells, text(c))
			}
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	row(func(c column[T]) string { return strings.ToUpper(c.title) })
	for _, v := range all {
		row(func(c column[T]) string { return c.text(v, now) })
	}
	return t.Flush()
}

// runShow prints one of them.
func (n noun[T]) runShow(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, n.name+" show", fmt.Sprintf(`
Shows one of the %s.

example:
  $ keyholder %s show %s
  $ keyholder %s show %s -json`, n.plural, n.name, n.key, n.name, n.key), n.key).server().reading()
	c, found, err := f.connect(args)
	if err != nil {
		return err
	}
	defer c.Close()
	v, err := n.show(c, ctx, found[0])
	if err != nil {
		return err
	}
	if *f.json {
		return printJSON(env.stdout, v)
	}
	t := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
	for _, c := range n.columns {
		fmt.Fprintf(t, "%s\t%s\n", c.title, c.text(v, env.now()))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if n.more != nil {
		n.more(env.stdout, v, env.now())
	}
	return nil
}

// printJSON writes a value for programs.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// stamp writes a time for people; zero is a dash.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// stateOf says whether something is in force; how is the word for having been
// cut.
func stateOf(start, end, cut time.Time, how string, now time.Time) string {
	_, words := console.State(start, end, cut, how, now)
	return words
}

// joined writes a list for people; an empty one is otherwise.
func joined[T ~string](list []T, otherwise string) string {
	if len(list) == 0 {
		return otherwise
	}
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = string(v)
	}
	return strings.Join(words, ", ")
}
