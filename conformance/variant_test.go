package conformance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	keyholder "github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/conformance"
)

// Ensure that sound deployments that differ in what FDS leaves open hold too.
func TestVariants(t *testing.T) {
	t.Parallel()
	for _, v := range []struct {
		name   string
		faults []string
		change func(t *testing.T, r *rig)
		note   string // that must be in the table
	}{
		{"TLS 1.3 beside 1.2", []string{"web: TLS 1.3 too", "broker: TLS 1.3 too"}, nil, "also speaks TLS 1.3"},
		{"opaque tokens", []string{"opaque tokens"}, nil, ""},
		{"another claim name, found", []string{"token: another claim name"}, nil, ""},
		{"another claim name, given", []string{"token: another claim name"}, func(_ *testing.T, r *rig) {
			r.Target.SubscriptionClaim = "fds_subscription"
		}, ""},
		{"metadata at the path of RFC 8414", []string{"metadata: RFC 8414 path only"}, nil, ""},
		{"client_secret_post", nil, func(_ *testing.T, r *rig) { r.Target.A.OAuth.AuthMethod = conformance.AuthPost }, ""},
		{"system of endpoints", nil, func(_ *testing.T, r *rig) { r.Target.Endpoints = []string{"specifications", "spaces"} }, ""},
		{"refresh token", nil, func(t *testing.T, r *rig) {
			r.Target.B.OAuth.Grant = conformance.GrantRefreshToken
			r.Target.B.OAuth.RefreshTokenFile = r.save("b.refresh", []byte(r.refreshToken))
		}, ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, v.faults...)
			if v.change != nil {
				v.change(t, r)
			}
			only := []string{"W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8"}
			if strings.HasPrefix(v.name, "TLS") {
				only = nil
			}
			report := r.check(only...)
			if !report.Holds {
				t.Errorf("not all hold:\n%s", table(t, report))
			}
			if !strings.Contains(table(t, report), v.note) {
				t.Errorf("no note %q:\n%s", v.note, table(t, report))
			}
		})
	}
}

// Ensure that a new refresh token replaces the old one in its file, so that
// the next run works.
func TestRefreshTokenIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	file := r.save("a.refresh", []byte(r.refreshToken+"\n"))
	r.Target.A.OAuth.Grant, r.Target.A.OAuth.RefreshTokenFile = conformance.GrantRefreshToken, file
	for range 2 {
		if got := result(t, r.check("W5.right"), "W5.right"); got.Status != conformance.Passed {
			t.Fatalf("%s: %s", got.Status, got.Seen)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(data)) != r.refreshToken {
		t.Error("the file does not hold the newest refresh token")
	}
	r.Target.A.OAuth.RefreshTokenFile, r.Target.A.OAuth.RefreshToken = "", conformance.Secret(r.refreshToken)
	if got := result(t, r.check("W5.right"), "W5.right"); !strings.Contains(strings.Join(got.Notes, " "), "refresh_token_file") {
		t.Errorf("no note that an inline refresh token was used up: %v", got.Notes)
	}
}

// Ensure that the refusals of a deployment that refuses everything, or is not
// there, count for nothing.
func TestRefusalsNeedAControl(t *testing.T) {
	t.Parallel()
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	for _, c := range []struct {
		name   string
		fault  string
		change func(r *rig)
		only   []string
		spared map[string]bool // probes of the bare listener, which may pass
	}{
		{"broker refuses", "broker: refuses everybody", nil, []string{"M2", "M3", "M4", "M5", "M6", "M7", "M8"}, nil},
		{"API refuses", "api: refuses everybody", nil, []string{"W3.forged", "W5", "W6", "W8.tampered"},
			map[string]bool{"W6.token": true, "W6.webhook": true, "W5.webhook": true, "W5.webhook-none": true}},
		{"authorization server refuses", "authorization server: refuses everybody", nil, []string{"W3.forged", "W4", "W5", "W6", "W7.token", "W8"}, nil},
		{"webhook refuses", "webhook: refuses everybody", nil, []string{"W5.webhook-none", "W6.webhook"}, nil},
		{"nothing is there", "", func(r *rig) {
			r.Target.MQTT = "mqtts://" + free()
			r.Target.API, r.Target.Issuer, r.Target.Webhook.URL = "https://"+free(), "https://"+free(), "https://"+free()+"/push"
		}, nil, nil},
		{"other servers are there", "", func(r *rig) {
			// Both speak TLS with the right name, but are not what they should be.
			r.timeout = time.Second
			r.Target.MQTT, r.Target.API = "mqtts://"+strings.TrimPrefix(r.Target.API, "https://"), "https://"+strings.TrimPrefix(r.Target.MQTT, "mqtts://")
		}, []string{"M2", "M3", "M4", "M5", "M6", "M7", "M8", "W3.forged", "W5", "W6", "W8.tampered"},
			map[string]bool{"W6.token": true, "W6.webhook": true, "W5.webhook": true, "W5.webhook-none": true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, c.fault)
			if c.change != nil {
				c.change(r)
			}
			report := r.check(c.only...)
			if report.Holds {
				t.Error("the report says that all hold")
			}
			for _, q := range report.Requirements {
				for _, p := range q.Probes {
					if p.Status == conformance.Passed && !c.spared[p.ID] {
						t.Errorf("%s passed: %s", p.ID, p.Seen)
					}
					if p.Kind == conformance.Negative && p.Status == conformance.Failed {
						t.Errorf("%s failed, though nothing forbidden was allowed: %s", p.ID, p.Seen)
					}
				}
			}
		})
	}
}

// Ensure that an incomplete target skips probes with the reason, and that a
// requirement without both kinds of evidence is not said to hold.
func TestIncompleteTarget(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.Target.B, r.Target.Provider2, r.Target.Revoked, r.Target.ExpiredToken, r.Target.ResourceServer, r.Target.Webhook = nil, nil, nil, "", nil, nil
	report := r.check()
	if report.Holds {
		t.Error("the report says that all hold")
	}
	for _, id := range []string{"W6.own", "M4.two", "M3.revoked", "W5.expired", "M7.provider2", "W5.webhook"} {
		if got := result(t, report, id); got.Status != conformance.Skipped || !strings.HasPrefix(got.Seen, "the target file lacks ") {
			t.Errorf("%s: %s (%s), want skipped with what is lacking", id, got.Status, got.Seen)
		}
	}
	for _, q := range report.Requirements {
		want := conformance.Holds
		if q.ID == keyholder.W6 || q.ID == keyholder.M4 || q.ID == keyholder.M5 {
			want = conformance.Unproven
		}
		if q.Verdict != want {
			t.Errorf("%s: %s, want %s", q.ID, q.Verdict, want)
		}
	}
}

// Ensure that no secret of the target and no token gets into a report, even
// if the deployment sends it back, and that no control character does.
func TestReportHoldsNoSecret(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"", "authorization server: repeats secrets", "api: no signature check", "opaque tokens"} {
		r := newRig(t, fault)
		if fault == "authorization server: repeats secrets" {
			r.faults["authorization server: refuses everybody"] = true
		}
		expired := r.Target.ExpiredToken
		report := r.check("W3", "W4", "W5", "W6", "W8")
		encoded, err := json.Marshal(report)
		if err != nil {
			t.Fatal(err)
		}
		out := string(encoded) + table(t, report)
		for name, secret := range map[string]string{"client secret": r.secret, "resource server's secret": r.rsSecret, "expired token": string(expired), "token": "eyJ", "opaque token": "opaque-"} {
			if strings.Contains(out, secret) {
				t.Errorf("%q: the report holds the %s", fault, name)
			}
		}
		if strings.ContainsRune(out, 0x1b) {
			t.Errorf("%q: the report holds an escape character", fault)
		}
	}
}

// Ensure that a deployment that accepts connections and says nothing costs no
// more than the time of each probe.
func TestSilentDeployment(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	r := newRig(t)
	r.Target.API, r.Target.Issuer, r.Target.MQTT = "https://"+l.Addr().String(), "https://"+l.Addr().String(), "mqtts://"+l.Addr().String()
	r.Target.Webhook = nil
	began := time.Now()
	report, err := conformance.Run(context.Background(), r.Target, conformance.Options{Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > time.Duration(len(conformance.Probes()))*time.Second {
		t.Errorf("took %s", took)
	}
	for _, q := range report.Requirements {
		for _, p := range q.Probes {
			if p.Status == conformance.Passed {
				t.Errorf("%s passed: %s", p.ID, p.Seen)
			}
		}
	}
}

// Ensure that ending the context ends the run, with the report so far.
func TestCancel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen := 0
	report, err := conformance.Run(ctx, r.Target, conformance.Options{Progress: func(conformance.Result) {
		if seen++; seen == 3 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if seen != 3 || report.Holds || len(report.Requirements) != 16 {
		t.Errorf("%d results, holds %v, %d requirements", seen, report.Holds, len(report.Requirements))
	}
}

// Ensure that Only takes requirements and probes, and refuses others with a
// hint.
func TestOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	report := r.check("w2", "M1.plain")
	var got []string
	for _, q := range report.Requirements {
		for _, p := range q.Probes {
			got = append(got, p.ID)
		}
	}
	if strings.Join(got, " ") != "W2.tls12 W2.weak M1.plain" {
		t.Errorf("ran %v", got)
	}
	_, err := conformance.Run(context.Background(), r.Target, conformance.Options{Only: []string{"M6.foreing"}})
	var e *keyholder.Error
	if !errors.As(err, &e) || e.Code != keyholder.Invalid || !strings.Contains(e.Hint, "m6.foreign") {
		t.Errorf("error %v, want an Invalid one with a hint", err)
	}
}

// Ensure that the report has a stable form.
func TestReportForm(t *testing.T) {
	t.Parallel()
	var report map[string]any
	encoded, err := json.Marshal(newRig(t, "broker: bare parent").check("M6"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(encoded, &report); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"keyholder_check", "target", "started", "took_ns", "holds", "requirements"} {
		if _, ok := report[key]; !ok {
			t.Errorf("the report has no %q", key)
		}
	}
	requirement := report["requirements"].([]any)[0].(map[string]any)
	for _, key := range []string{"id", "text", "section", "actor", "level", "verdict", "positive", "negative", "probes"} {
		if _, ok := requirement[key]; !ok {
			t.Errorf("a requirement has no %q", key)
		}
	}
	failed := requirement["probes"].([]any)[1].(map[string]any)
	for _, key := range []string{"id", "requirement", "kind", "title", "status", "seen", "todo", "took_ns"} {
		if _, ok := failed[key]; !ok {
			t.Errorf("a probe has no %q", key)
		}
	}
}

// Ensure that the table shows a line for each requirement, colours only on
// demand, and errors of the writer.
func TestTable(t *testing.T) {
	t.Parallel()
	report := newRig(t, "broker: bare parent").check("M6", "M8")
	plain := table(t, report)
	for _, want := range []string{"M6  FAILS", "M8  holds", "M6.foreign", "seen: ", "do:   ", "1 of 2 requirements hold"} {
		if !strings.Contains(plain, want) {
			t.Errorf("the table has no %q:\n%s", want, plain)
		}
	}
	if strings.ContainsRune(plain, 0x1b) {
		t.Error("the plain table has colours")
	}
	var b bytes.Buffer
	if err := report.WriteTable(&b, true); err != nil || !strings.ContainsRune(b.String(), 0x1b) {
		t.Errorf("error %v, or no colours", err)
	}
	if err := report.WriteTable(brokenWriter{}, false); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error %v, want the writer's", err)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// Ensure that a running deployment named by KEYHOLDER_CHECK_TARGET keeps all
// requirements. Skipped unless the variable is set.
func TestTargetFromEnvironment(t *testing.T) {
	file := os.Getenv("KEYHOLDER_CHECK_TARGET")
	if file == "" {
		t.Skip("KEYHOLDER_CHECK_TARGET names no target file")
	}
	target, err := conformance.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	report, err := conformance.Run(context.Background(), target, conformance.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !report.Holds {
		t.Errorf("\n%s", table(t, report))
	}
}
