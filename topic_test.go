package keyholder_test

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/fds-keyholder/keyholder"
)

const prefix = "fds/v2/" + goodID + "/"

// goodLevels are levels behind the subscription ID of a name or a filter.
var goodLevels = []string{
	"statuses", "events", "statuses/FORKINC_S1_1223", "a/b/c/d", "$share", "$SYS/x", "Größe", "日本/語", " ", "a b", ".", "..", "fds/v2", "%2F", "'; --",
	strings.Repeat("x", 1024-len(prefix)),
}

// badTopics are wrong as a name and as a filter.
var badTopics = []string{
	"", "/", "#", "+", goodID + "/x", "/" + goodID + "/x", "+/#", "+/+/#", "fds", "fds/", "fds/#", "fds/v2", "fds/v2/", "fds/v2/#", "fds/v2/+", "fds/v2/+/x", "fds/v2/+/#", "fds/+/" + goodID + "/x",
	"+/v2/" + goodID + "/x", "+/+/" + goodID + "/#", "fds/v2/" + goodID, "fds/v2/" + goodID + "x", "fds/v2/" + goodID + "x/y", prefix,
	"/" + prefix + "x", "fds//" + goodID + "/x", "fds/v2//x", "FDS/v2/" + goodID + "/x", "fds/V2/" + goodID + "/x",
	"fds/v1/" + goodID + "/x", "fds/v2 /" + goodID + "/x", " fds/v2/" + goodID + "/x", "fds/v2/" + strings.ToUpper(goodID) + "/x",
	"fds/v2/urn:uuid:" + goodID + "/x", "fds/v2/6f1e9a52-3c1b-1f0e-9b7d-2a5c8d4e1f30/x", "fds/v2/northgate/x",
	"$share/g/" + prefix + "x", "$share/g/fds/v2/#", "$queue/" + prefix + "x", "$SYS/#", "$SYS/broker/clients", "$share", "x/" + prefix + "y",
	prefix + "/x", prefix + "x/", prefix + "x//y", prefix + "/",
	prefix + "x\x00y", "\x00" + prefix + "x", "\ufeff" + prefix + "x", prefix + "\ufeffx", prefix + "x\ufeff", prefix + "\x7f", prefix + "\u0085", prefix + "\n", prefix + "\t",
	prefix + "\xff", prefix + "\xc0\x80", prefix + "\xed\xa0\x80", prefix + "\ufffe", prefix + "\uffff", prefix + "\U0001ffff", prefix + "\ufdd0",
	prefix + strings.Repeat("x", 1025-len(prefix)), prefix + strings.Repeat("x", 70_000),
}

// wildcards are right in a filter and wrong in a name.
var wildcards = []string{"#", "+", "+/+", "+/#", "statuses/#", "statuses/+", "+/x", "a/+/b", "a/+/#"}

// badWildcards are wrong in both (MQTT 5, 4.7.1).
var badWildcards = []string{"#/", "#/x", "a/#/b", "##", "+#", "#+", "++", "a#", "#a", "a+", "+a", "a/b+", "a/+b/c", "a/#b", "/#", "+/", "//#"}

// Ensure that topic names are taken below a subscription ID only and come
// back as they were.
func TestParseTopic(t *testing.T) {
	for _, l := range goodLevels {
		topic, err := keyholder.ParseTopic(prefix + l)
		if want := (keyholder.Topic{Subscription: goodID, Level: l}); err != nil || topic != want || topic.String() != prefix+l {
			t.Errorf("%.80q: got %+v, %v", l, topic, err)
		}
	}
	bad := slices.Clone(badTopics)
	for _, l := range slices.Concat(wildcards, badWildcards) {
		bad = append(bad, prefix+l)
	}
	for _, s := range bad {
		if topic, err := keyholder.ParseTopic(s); topic != (keyholder.Topic{}) || keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%.80q: got %+v, %v", s, topic, err)
		}
	}
}

// Ensure that filters are taken below a subscription ID only, with wildcards
// as MQTT has them, and come back as they were (M6, SR-14).
func TestParseFilter(t *testing.T) {
	for _, l := range slices.Concat(goodLevels, wildcards) {
		filter, err := keyholder.ParseFilter(prefix + l)
		if want := (keyholder.Filter{Subscription: goodID, Pattern: l}); err != nil || filter != want || filter.String() != prefix+l {
			t.Errorf("%.80q: got %+v, %v", l, filter, err)
		}
	}
	bad := slices.Clone(badTopics)
	for _, l := range badWildcards {
		bad = append(bad, prefix+l)
	}
	for _, s := range bad {
		if filter, err := keyholder.ParseFilter(s); filter != (keyholder.Filter{}) || keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%.80q: got %+v, %v", s, filter, err)
		}
	}
}

// Ensure that filters select what MQTT 5, 4.7.1 says.
func TestFilterMatches(t *testing.T) {
	for _, tt := range []struct {
		pattern, level string
		want           bool
	}{
		{"statuses", "statuses", true},
		{"statuses", "status", false},
		{"statuses", "Statuses", false},
		{"statuses", "statuses/x", false},
		{"statuses/x", "statuses", false},
		{"#", "statuses", true},
		{"#", "a/b/c", true},
		{"a/#", "a", true},
		{"a/#", "a/b", true},
		{"a/#", "a/b/c", true},
		{"a/#", "ab", false},
		{"a/#", "b/a", false},
		{"a/b/#", "a", false},
		{"+", "a", true},
		{"+", "a/b", false},
		{"+/b", "a/b", true},
		{"+/b", "b", false},
		{"a/+", "a", false},
		{"a/+", "a/b", true},
		{"a/+", "a/b/c", false},
		{"a/+/c", "a/b/c", true},
		{"a/+/c", "a/b/d", false},
		{"+/#", "a", true},
		{"+/+", "a", false},
		{"+/+/#", "a", false},
		{"+/+/#", "a/b", true},
		{"$share", "$share", true},
	} {
		f := keyholder.Filter{Subscription: goodID, Pattern: tt.pattern}
		if got := f.Matches(keyholder.Topic{Subscription: goodID, Level: tt.level}); got != tt.want {
			t.Errorf("%q selects %q: %v, want %v", tt.pattern, tt.level, got, tt.want)
		}
		if f.Matches(keyholder.Topic{Subscription: aSubscription, Level: tt.level}) {
			t.Errorf("%q selects %q of another subscription", tt.pattern, tt.level)
		}
	}
}

// okTopic is a second description of what names and filters share.
func okTopic(s string) (levels []string, ok bool) {
	parts := strings.Split(s, "/")
	if len(s) > 1024 || !utf8.ValidString(s) || len(parts) < 4 || parts[0] != "fds" || parts[1] != "v2" || !uuid4.MatchString(parts[2]) {
		return nil, false
	}
	bad := func(r rune) bool {
		return unicode.IsControl(r) || r == '\ufeff' || unicode.Is(unicode.Noncharacter_Code_Point, r)
	}
	return parts[3:], strings.IndexFunc(s, bad) < 0 && !slices.Contains(parts[3:], "")
}

// FuzzParseTopic compares ParseTopic with the second description.
func FuzzParseTopic(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, s string) {
		topic, err := keyholder.ParseTopic(s)
		levels, ok := okTopic(s)
		ok = ok && !strings.ContainsAny(s, "+#")
		if (err == nil) != ok || err != nil && keyholder.CodeOf(err) != keyholder.Invalid {
			t.Fatalf("%q: got %+v, %v, want accepted %v", s, topic, err, ok)
		}
		if !ok {
			return
		}
		if topic.String() != s || topic.Level != strings.Join(levels, "/") || !strings.HasPrefix(s, "fds/v2/"+string(topic.Subscription)+"/") {
			t.Errorf("%q: got %+v", s, topic)
		}
	})
}

// FuzzParseFilter compares ParseFilter with the second description.
func FuzzParseFilter(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, s string) {
		filter, err := keyholder.ParseFilter(s)
		levels, ok := okTopic(s)
		for i, l := range levels {
			ok = ok && (l == "+" || l == "#" && i == len(levels)-1 || !strings.ContainsAny(l, "+#"))
		}
		if (err == nil) != ok || err != nil && keyholder.CodeOf(err) != keyholder.Invalid {
			t.Fatalf("%q: got %+v, %v, want accepted %v", s, filter, err, ok)
		}
		if !ok {
			return
		}
		if filter.String() != s || filter.Pattern != strings.Join(levels, "/") || !strings.HasPrefix(s, "fds/v2/"+string(filter.Subscription)+"/") {
			t.Errorf("%q: got %+v", s, filter)
		}
		// Without wildcards a filter is a name and selects just that one.
		if !strings.ContainsAny(filter.Pattern, "+#") && !filter.Matches(keyholder.Topic{Subscription: filter.Subscription, Level: filter.Pattern}) {
			t.Errorf("%q does not select itself", s)
		}
	})
}

// FuzzFilterMatches compares Matches with a plain matcher.
func FuzzFilterMatches(f *testing.F) {
	for _, p := range slices.Concat(wildcards, []string{"a", "a/b", "a/b/c"}) {
		for _, l := range []string{"a", "a/b", "a/b/c", "statuses", "statuses/x"} {
			f.Add(p, l)
		}
	}
	f.Fuzz(func(t *testing.T, pattern, level string) {
		filter, err := keyholder.ParseFilter(prefix + pattern)
		if err != nil {
			return
		}
		topic, err := keyholder.ParseTopic(prefix + level)
		if err != nil {
			return
		}
		if got, want := filter.Matches(topic), selects(strings.Split(pattern, "/"), strings.Split(level, "/")); got != want {
			t.Errorf("%q selects %q: %v, want %v", pattern, level, got, want)
		}
		topic.Subscription = aSubscription
		if filter.Matches(topic) {
			t.Errorf("%q selects a topic of another subscription", pattern)
		}
	})
}

// selects is MQTT 5, 4.7.1 on levels.
func selects(pattern, level []string) bool {
	if len(pattern) > 0 && pattern[0] == "#" {
		return true
	}
	if len(pattern) == 0 || len(level) == 0 {
		return len(pattern) == len(level)
	}
	return (pattern[0] == "+" || pattern[0] == level[0]) && selects(pattern[1:], level[1:])
}

func seed(f *testing.F) {
	for _, s := range badTopics {
		if len(s) < 2000 {
			f.Add(s)
		}
	}
	for _, l := range slices.Concat(goodLevels, wildcards, badWildcards) {
		f.Add(prefix + l)
	}
}
