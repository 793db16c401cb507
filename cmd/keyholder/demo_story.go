package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// story prints what the demo does, as it does it, and counts what did not
// hold. It is used by one goroutine at a time.
type story struct {
	w        io.Writer
	terminal bool // colours and rewritten progress lines
	began    time.Time
	chapters int
	failures []string
	progress string // text of an unfinished progress line
	quarter  int    // last one that was shown
}

func newStory(w io.Writer) *story {
	f, ok := w.(*os.File)
	terminal := false
	if ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
		info, err := f.Stat()
		terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return &story{w: w, terminal: terminal, began: time.Now()}
}

// chapter begins a part of the story.
func (s *story) chapter(format string, args ...any) {
	s.endProgress()
	s.chapters++
	title := fmt.Sprintf("%d  %s", s.chapters, fmt.Sprintf(format, args...))
	fmt.Fprintf(s.w, "\n%s%s %s\n", s.style("1", title), strings.Repeat(" ", max(1, 70-len(title))), s.style("2", fmt.Sprintf("%5.1f s", time.Since(s.began).Seconds())))
}

// say prints one line of a chapter.
func (s *story) say(format string, args ...any) {
	s.endProgress()
	fmt.Fprintf(s.w, "   %s\n", fmt.Sprintf(format, args...))
}

// check prints whether something held, with what was seen, and remembers it
// if it did not.
func (s *story) check(held bool, what, seen string) {
	s.endProgress()
	mark := s.style("32", "ok  ")
	if !held {
		mark = s.style("31;1", "FAIL")
		s.failures = append(s.failures, what+": "+seen)
	}
	fmt.Fprintf(s.w, "   %s %-46s %s\n", mark, what, s.style("2", seen))
}

// count shows how far a longer step is: in place on a terminal, at each
// quarter elsewhere.
func (s *story) count(what string, n, total int) {
	if s.terminal {
		s.progress = fmt.Sprintf("   ... %s %d of %d", what, n, total)
		fmt.Fprintf(s.w, "\r%s", s.progress)
		return
	}
	if quarter := 4 * n / max(1, total); quarter != s.quarter && quarter < 4 {
		s.quarter = quarter
		if n > 0 {
			fmt.Fprintf(s.w, "   ... %s %d of %d\n", what, n, total)
		}
	}
}

func (s *story) endProgress() {
	if s.progress != "" {
		fmt.Fprintf(s.w, "\r%s\r", strings.Repeat(" ", len(s.progress)))
		s.progress = ""
	}
}

// style wraps text in a terminal style, on a terminal only.
func (s *story) style(code, text string) string {
	if !s.terminal {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
