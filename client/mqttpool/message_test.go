package mqttpool_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client/mqttpool"
)

const (
	testSub  = "6f1e9a52-3c1b-4f0e-9b7d-2a5c8d4e1f30"
	otherSub = "b1d0c7de-8f2a-4b63-a5c4-9e7f10d2c3b6"
)

// Ensure that only messages of the own subscription are taken, and that only
// a well-formed name of a message becomes its key.
func TestParseMessage(t *testing.T) {
	own := "fds/v2/" + testSub + "/"
	tests := map[string]struct {
		topic string
		keys  []string
		level string // empty: dropped
		key   string
	}{
		"plain":              {own + "statuses", []string{testSub + "/7"}, "statuses", testSub + "/7"},
		"deeper level":       {own + "a/b", []string{testSub + "/1"}, "a/b", testSub + "/1"},
		"not named":          {own + "statuses", nil, "statuses", ""},
		"named twice":        {own + "statuses", []string{testSub + "/7", testSub + "/8"}, "statuses", ""},
		"other's name":       {own + "statuses", []string{otherSub + "/7"}, "statuses", ""},
		"no number":          {own + "statuses", []string{testSub + "/x"}, "statuses", ""},
		"zero":               {own + "statuses", []string{testSub + "/0"}, "statuses", ""},
		"negative":           {own + "statuses", []string{testSub + "/-1"}, "statuses", ""},
		"other spelling":     {own + "statuses", []string{testSub + "/07"}, "statuses", ""},
		"very long number":   {own + "statuses", []string{testSub + "/99999999999999999999"}, "statuses", ""},
		"empty name":         {own + "statuses", []string{""}, "statuses", ""},
		"other subscription": {"fds/v2/" + otherSub + "/statuses", []string{otherSub + "/7"}, "", ""},
		"no level":           {"fds/v2/" + testSub, nil, "", ""},
		"other root":         {"x/v2/" + testSub + "/statuses", nil, "", ""},
		"wildcard":           {own + "#", nil, "", ""},
		"control character":  {own + "a\x00", nil, "", ""},
		"empty":              {"", nil, "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := mqttpool.ParseMessage(testSub, tt.topic, tt.keys, []byte("p"))
			want := mqttpool.Message{}
			if tt.level != "" {
				want = mqttpool.Message{Subscription: testSub, Level: tt.level, Payload: []byte("p"), Key: tt.key}
			}
			if d := cmp.Diff(want, got); d != "" || ok != (tt.level != "") {
				t.Errorf("taken: %v, message differs (-want +got):\n%s", ok, d)
			}
		})
	}
}

// FuzzParseMessage checks that nothing of another subscription passes.
func FuzzParseMessage(f *testing.F) {
	f.Add("fds/v2/"+testSub+"/statuses", testSub+"/7")
	f.Add("fds/v2/"+otherSub+"/statuses", otherSub+"/7")
	f.Add("fds/v2/"+testSub+"/#", "")
	f.Fuzz(func(t *testing.T, topic, key string) {
		m, ok := mqttpool.ParseMessage(testSub, topic, []string{key}, nil)
		if !ok {
			return
		}
		if again := (keyholder.Topic{Subscription: testSub, Level: m.Level}).String(); again != topic || m.Subscription != testSub {
			t.Errorf("topic %q became %+v", topic, m)
		}
		if m.Key != "" && m.Key != key {
			t.Errorf("key %q became %q", key, m.Key)
		}
	})
}
