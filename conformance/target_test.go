package conformance_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	keyholder "github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/conformance"
)

// Ensure that the example is a valid target that has every key there is.
func TestExample(t *testing.T) {
	t.Parallel()
	target, err := conformance.Parse([]byte(conformance.Example()), "/etc/check")
	if err != nil {
		t.Fatal(err)
	}
	if target.A.OAuth.SecretFile != "/etc/check/a.secret" {
		t.Errorf("secret_file is %q, want it below the target's folder", target.A.OAuth.SecretFile)
	}
	var keys func(reflect.Type)
	keys = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if !strings.Contains(conformance.Example(), `"`+name+`"`) {
				t.Errorf("the example does not mention %q", name)
			}
			keys(typ.Field(i).Type)
		}
	}
	keys(reflect.TypeFor[conformance.Target]())
}

// Ensure that what is wrong in a target file is refused with its line and a
// hint.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	const minimal = `"mqtt": "mqtts://b.example"`
	for _, c := range []struct{ name, text, detail, hint string }{
		{"empty", ``, "ends too early", ""},
		{"no object", `[]`, "must be an object", ""},
		{"not JSON", `{"api" "x"}`, "not JSON", ""},
		{"cut off", "{\n\"api\": \"https://x.example\",", "line 2", ""},
		{"two objects", `{` + minimal + `} {}`, "after the object", ""},
		{"unknown key", "{\n// a comment\n\"isuer\": \"x\"}", `line 3: unknown key "isuer"`, `"issuer"`},
		{"key in another case", `{"MQTT": "x"}`, "unknown key", `"mqtt"`},
		{"unknown key deep inside", `{"consumer_a": {"oauth": {"clientid": "x"}}}`, "in consumer_a.oauth", `"client_id"`},
		{"far key", `{"frobnicate": "x"}`, "unknown key", "known here: api, ca"},
		{"repeated key", `{"api": "https://x.example", "api": "https://y.example"}`, "repeated", ""},
		{"repeated parameter", `{"consumer_a": {"oauth": {"parameters": {"a": "1", "a": "2"}}}}`, "repeated", ""},
		{"number", `{"api": 1}`, "api must be a string", ""},
		{"null", `{"consumer_a": null}`, "consumer_a must be an object", ""},
		{"list of lists", `{"endpoints": [["a"]]}`, "must be a string", ""},
		{"nothing to check", `{"name": "x"}`, "nothing to check", "example"},
		{"plain API", `{"api": "http://x.example"}`, "https", ""},
		{"plain broker", `{"mqtt": "mqtt://x.example"}`, "mqtts", ""},
		{"API with a query", `{"api": "https://x.example?a=b"}`, "query", ""},
		{"half a pair", `{` + minimal + `, "provider": {"id": "x", "certificate": "c"}}`, "both certificate and key", ""},
		{"two secrets", `{` + minimal + `, "consumer_a": {"subscription_id": "x", "oauth": {"client_id": "c", "secret": "s", "secret_file": "f"}}}`, "not both", ""},
		{"unknown grant", `{` + minimal + `, "consumer_a": {"subscription_id": "x", "oauth": {"grant": "password"}}}`, "unknown grant", ""},
		{"one subscription twice", `{` + minimal + `, "consumer_a": {"subscription_id": "x"}, "consumer_b": {"subscription_id": "X"}}`, "two subscriptions", ""},
		{"level with a wildcard", `{` + minimal + `, "check_level": "a/#"}`, "one topic level", ""},
		{"too large", `{"name": "` + strings.Repeat("x", 1<<20) + `"}`, "larger than", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := conformance.Parse([]byte(c.text), "")
			var e *keyholder.Error
			if !errors.As(err, &e) || e.Code != keyholder.Invalid {
				t.Fatalf("error %v, want an Invalid one", err)
			}
			if !strings.Contains(e.Detail, c.detail) || !strings.Contains(e.Hint, c.hint) {
				t.Errorf("detail %q, hint %q; want %q and %q", e.Detail, e.Hint, c.detail, c.hint)
			}
		})
	}
}

// Ensure that a target file is read with its files beside it, and that a file
// that is missing or useless is named.
func TestLoad(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	write := func(text string) string { return r.save("target.json", []byte(text)) }
	target, err := conformance.Load(write(fmt.Sprintf(`{"mqtt": %q, "ca": "ca.pem", "consumer_a": {"subscription_id": %q, "mqtt": {"certificate": "a.pem", "key": "a.key"}}}`,
		r.Target.MQTT, r.subA)))
	if err != nil {
		t.Fatal(err)
	}
	r.Target = target
	if got := result(t, r.check("M2.none"), "M2.none"); got.Status != conformance.Passed {
		t.Errorf("%s: %s", got.Status, got.Seen)
	}
	if _, err := conformance.Load(filepath.Join(r.dir, "none.json")); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("error %v, want an Invalid one", err)
	}
	for name, text := range map[string]string{
		"none.pem":    `{"mqtt": "mqtts://x.example", "ca": "none.pem"}`,
		"target.json": `{"mqtt": "mqtts://x.example", "ca": "target.json"}`,
		"b.pem":       `{"mqtt": "mqtts://x.example", "provider": {"id": "p", "certificate": "b.pem", "key": "a.key"}}`,
	} {
		target, err := conformance.Load(write(text))
		if err != nil {
			t.Fatal(err)
		}
		_, err = conformance.Run(t.Context(), target, conformance.Options{})
		if keyholder.CodeOf(err) != keyholder.Invalid || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want an Invalid one that names %s", err, name)
		}
	}
}

// Ensure that a secret shows itself in no way.
func TestSecretIsHidden(t *testing.T) {
	t.Parallel()
	c := conformance.Credentials{ClientID: "x", Secret: "tell-nobody"}
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{string(encoded), fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), fmt.Sprintf("%q", c.Secret), c.Secret.String()} {
		if strings.Contains(s, "tell-nobody") {
			t.Errorf("the secret shows in %s", s)
		}
	}
}

// Ensure that the sixteen requirements are there, each with probes of both
// kinds, and that IDs are unique.
func TestRequirements(t *testing.T) {
	t.Parallel()
	var got []string
	for _, q := range conformance.Requirements() {
		got = append(got, string(q.ID))
		if q.Text == "" || q.Actor == "" || q.Level != "MUST" || !strings.HasPrefix(q.Section, "2.6.4.") {
			t.Errorf("%+v is incomplete", q)
		}
	}
	if d := cmp.Diff(strings.Fields("W1 W2 W3 W4 W5 W6 W7 W8 M1 M2 M3 M4 M5 M6 M7 M8"), got); d != "" {
		t.Error(d)
	}
	kinds, ids := map[string]int{}, map[string]bool{}
	for _, p := range conformance.Probes() {
		if ids[p.ID] || p.Title == "" || !strings.HasPrefix(p.ID, string(p.Requirement)+".") {
			t.Errorf("%+v is repeated or incomplete", p)
		}
		ids[p.ID] = true
		kinds[string(p.Requirement)+string(p.Kind)]++
	}
	for _, id := range got {
		for _, kind := range []conformance.Kind{conformance.Positive, conformance.Negative} {
			if kinds[id+string(kind)] == 0 {
				t.Errorf("%s has no %s probe", id, kind)
			}
		}
	}
}

// Ensure that text from outside cannot steer a terminal.
func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain":                "plain",
		"a\x1b[31mb\x07":       "a?[31mb?",
		"a\nb\tc":              "a b c",
		"a\u202eb\u2066c\x9b":  "a?b?c?",
		strings.Repeat("x", 9): "xxxxxxxxx",
	} {
		if got := conformance.Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
	if got := conformance.Clean(strings.Repeat("x", 5000)); len(got) > 310 {
		t.Errorf("%d bytes", len(got))
	}
}

func FuzzParse(f *testing.F) {
	f.Add("// a comment\n{\"name\": \"x\",\n  // another\n\"provider\": {\"id\": \"p\", \"certificate\": \"c\", \"key\": \"k\"}, \"mqtt\": \"mqtts://b\"}")
	f.Add(`{"api": "https://x.example", "endpoints": ["a", "b"]}`)
	f.Add("{\n// c\n\"mqtt\": \"mqtts://[::1]:1\"}")
	f.Add(`{"consumer_a": {"oauth": {"parameters": {"a": "b"}}}}`)
	f.Add(`{"\u0061pi": "https://x"}`)
	f.Fuzz(func(t *testing.T, text string) {
		target, err := conformance.Parse([]byte(text), "dir")
		if err == nil {
			if target.API == "" && target.Issuer == "" && target.MQTT == "" && target.Webhook == nil {
				t.Error("a target with nothing to check is accepted")
			}
			// What the strict reader takes, the standard one reads alike once
			// the comments are gone.
			var again conformance.Target
			if strings.Contains(text, "\n//") || strings.HasPrefix(strings.TrimSpace(text), "//") {
				return
			}
			if err := json.Unmarshal([]byte(text), &again); err != nil && !strings.Contains(text, "//") {
				t.Errorf("encoding/json refuses it: %v", err)
			} else if err == nil && again.API != target.API {
				t.Errorf("api is %q, want %q", target.API, again.API)
			}
			return
		}
		var e *keyholder.Error
		if !errors.As(err, &e) || e.Code != keyholder.Invalid {
			t.Fatalf("error %v, want an Invalid one", err)
		}
		for _, r := range e.Detail + e.Hint {
			if unicode.IsControl(r) {
				t.Fatalf("the error holds the control character %U", r)
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add("eyJhbGciOiJFUzI1NiJ9.eyJleHAiOjF9.c2ln")
	f.Add("opaque")
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, raw string) {
		changed, err := conformance.LookIntoToken(raw)
		if err == nil && changed == raw && len(raw) > 0 {
			// Only a token that already says what the tampering says.
			if !strings.Contains(raw, ".") {
				t.Error("tampering changed nothing")
			}
		}
	})
}

func FuzzPackets(f *testing.F) {
	f.Add([]byte{0x20, 0x03, 0x00, 0x00, 0x00})
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0x7f})
	f.Add([]byte{0x90, 0x04, 0x00, 0x01, 0x00, 0x01, 0xd0, 0x00})
	f.Add([]byte{0x30, 0x80, 0x80, 0x80, 0x80, 0x01})
	f.Fuzz(func(t *testing.T, data []byte) {
		if n := conformance.ReadPackets(data); n > len(data)/2 {
			t.Errorf("%d packets in %d bytes", n, len(data))
		}
	})
}

// Ensure that the example can be handed out as a file.
func TestExampleAsFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "target.json")
	if err := os.WriteFile(file, []byte(conformance.Example()), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := conformance.Load(file); err != nil {
		t.Error(err)
	}
}
