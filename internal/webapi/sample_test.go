package webapi_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
)

// sample is the folder of the sample facility.
const sample = "../../cmd/keyholder/sample"

// row is one line of a sample file: the item without the owner's key, byte
// for byte where the file gives it so.
type row struct {
	owner string
	kind  keyholder.Kind
	item  string
}

// rows reads a file of the sample facility.
func rows(t testing.TB, name string) []row {
	t.Helper()
	f, err := os.Open(filepath.Join(sample, name+".ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	feed := map[string]keyholder.Kind{"status": keyholder.Statuses, "statistic": keyholder.Statistics, "event": keyholder.Events}
	var out []row
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var line struct {
			Owner string          `json:"owner"`
			Kind  string          `json:"kind"`
			Item  json.RawMessage `json:"item"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line.Item != nil {
			out = append(out, row{line.Owner, feed[line.Kind], string(line.Item)})
			continue
		}
		item := strings.Replace(lines.Text(), `"owner":"`+line.Owner+`",`, "", 1)
		out = append(out, row{line.Owner, keyholder.Kind(name), item})
	}
	if lines.Err() != nil || len(out) == 0 {
		t.Fatalf("%s: %d rows, %v", name, len(out), lines.Err())
	}
	return out
}

// Ensure that the whole sample facility goes in through ingestion and comes
// out byte for byte: by pull for every app of its owner, and as pushes in the
// order of the feed, none crossed.
func TestSampleFacility(t *testing.T) {
	b := open(t, limits{})
	type shelf struct {
		owner string
		kind  keyholder.Kind
	}
	all := map[shelf][]string{}
	pushes := map[string][]string{}
	for _, name := range []string{"spaces", "specifications", "diagnostics", "event_specifications", "feed"} {
		for _, r := range rows(t, name) {
			owners := []string{r.owner}
			if r.owner == "" { // of the provider: for each owner
				owners = []string{"northgate", "st-anna"}
			}
			for _, o := range owners {
				all[shelf{o, r.kind}] = append(all[shelf{o, r.kind}], r.item)
			}
			if name == "feed" {
				pushes[r.owner] = append(pushes[r.owner], string(r.kind)+" "+r.item)
			}
		}
	}
	// What is not pushed goes in whole, the feed in runs of one owner and kind.
	for s, items := range all {
		if s.kind.Pushed() {
			continue
		}
		if n, pushed := b.put(s.owner, s.kind, items...); n != len(items) || pushed != 0 {
			t.Errorf("%v: %d stored of %d, %d pushed", s, n, len(items), pushed)
		}
	}
	var run []string
	feed := rows(t, "feed")
	for i, r := range feed {
		run = append(run, r.item)
		if i+1 < len(feed) && feed[i+1].owner == r.owner && feed[i+1].kind == r.kind {
			continue
		}
		if n, pushed := b.put(r.owner, r.kind, run...); n != len(run) || pushed != len(run)*len(b.apps) {
			t.Errorf("line %d: %d stored and %d pushed of %d", i+1, n, pushed, len(run))
		}
		run = nil
	}

	for s, items := range all {
		for app := range b.apps {
			got := array(t, b.get("/fds/v2/"+string(s.kind), b.reader(s.owner, app)))
			if d := cmp.Diff(latest(t, s.kind, items), got); d != "" {
				t.Errorf("%v for app %d (-want +got):\n%s", s, app+1, d)
			}
		}
	}
	for owner, want := range pushes {
		for app := range b.apps {
			var got []string
			for _, m := range b.drain(b.subs[owner][app].ID, len(want)) {
				got = append(got, m.Level+" "+string(m.Payload))
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("pushes of %s to app %d (-want +got):\n%s", owner, app+1, d)
			}
		}
	}
}

// latest keeps the last status of each device, in the order of the devices'
// first; other kinds of the sample have no two items of the same entity.
func latest(t *testing.T, kind keyholder.Kind, items []string) []string {
	t.Helper()
	if kind != keyholder.Statuses {
		return items
	}
	var order []string
	last := map[string]string{}
	for _, i := range items {
		var item struct {
			DeviceID string `json:"device_id"`
		}
		if err := json.Unmarshal([]byte(i), &item); err != nil {
			t.Fatal(err)
		}
		if _, seen := last[item.DeviceID]; !seen {
			order = append(order, item.DeviceID)
		}
		last[item.DeviceID] = i
	}
	out := []string{}
	for _, id := range order {
		out = append(out, last[id])
	}
	return out
}

// Ensure that an app reads only its own owner's items, whatever it asks for,
// and that the IDs of the other owner and IDs of nobody give the same answer.
func TestOwnersAreIsolated(t *testing.T) {
	b := open(t, limits{})
	canary := map[string]string{"northgate": "CANARYNORTHGATE", "st-anna": "CANARYSTANNA"}
	for owner, word := range canary {
		for _, kind := range keyholder.Kinds() {
			b.put(owner, kind, `{"device_id":"`+word+`","space_id":"`+word+`","message_code":"`+word+`","generic":{"device_type":"dispenser"}}`,
				`{"device_id":"SAME","space_id":"SAME","message_code":"SAME","generic":{},"x":"`+word+`"}`)
		}
	}
	tagOf := map[string]string{}
	for owner, word := range canary {
		for app := range b.apps {
			a := b.do("POST", "/fds/v2/tag", b.reader(owner, app), "application/json", `{"generic":{"name":"`+word+`"}}`)
			if a.status != http.StatusCreated {
				t.Fatalf("create a tag: %d %s", a.status, a.body)
			}
			tagOf[owner] = strings.TrimPrefix(a.header.Get("Location"), "/fds/v2/tag/")
		}
	}
	for owner := range canary {
		other := "st-anna"
		if owner == other {
			other = "northgate"
		}
		for app := range b.apps {
			token := b.reader(owner, app)
			for _, kind := range keyholder.Kinds() {
				path := "/fds/v2/" + string(kind)
				for _, query := range []string{"", "?ids=SAME", "?ids=SAME," + canary[other], "?ids=" + canary[other]} {
					a := b.get(path+query, token)
					if a.status != http.StatusOK || strings.Contains(a.body, canary[other]) {
						t.Errorf("%s reads %s%s: %d %s", owner, path, query, a.status, a.body)
					}
				}
				if a := b.get(path+"?ids=SAME", token); !strings.Contains(a.body, canary[owner]) {
					t.Errorf("%s does not read its own %s: %s", owner, kind, a.body)
				}
				foreign, nobody := b.get(path+"?ids="+canary[other], token), b.get(path+"?ids=NOBODY", token)
				if foreign.body != "[]" || foreign.body != nobody.body || foreign.status != nobody.status {
					t.Errorf("%s: foreign %d %s, unknown %d %s", path, foreign.status, foreign.body, nobody.status, nobody.body)
				}
			}
			if a := b.get("/fds/v2/tag", token); strings.Contains(a.body, canary[other]) || !strings.Contains(a.body, canary[owner]) {
				t.Errorf("tags of %s: %s", owner, a.body)
			}
			sameRefusal(t, b, token, tagOf[other])
		}
	}
}

// sameRefusal checks that another's tag and no tag at all look the same.
func sameRefusal(t *testing.T, b *bench, token, foreign string) {
	t.Helper()
	const nobody = "00000000-0000-4000-8000-000000000000"
	for _, c := range []struct{ method, path, body string }{
		{"DELETE", "/fds/v2/tag/%", ""}, {"PUT", "/fds/v2/tag/%/entities", `["SAME"]`}, {"GET", "/fds/v2/tag?ids=%", ""},
	} {
		contentType := ""
		if c.body != "" {
			contentType = "application/json"
		}
		got := b.do(c.method, strings.Replace(c.path, "%", foreign, 1), token, contentType, c.body)
		want := b.do(c.method, strings.Replace(c.path, "%", nobody, 1), token, contentType, c.body)
		got.header.Del("Date")
		want.header.Del("Date")
		if got.status != want.status || got.body != want.body || cmp.Diff(got.header, want.header) != "" {
			t.Errorf("%s %s: foreign %+v, unknown %+v", c.method, c.path, got, want)
		}
		if c.method != "GET" && got.status != http.StatusUnauthorized {
			t.Errorf("%s %s of a foreign tag: %d", c.method, c.path, got.status)
		}
	}
}
