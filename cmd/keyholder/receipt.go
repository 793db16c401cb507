package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/keyring"
)

func receipts() noun[keyholder.Receipt] {
	return noun[keyholder.Receipt]{
		name: "receipt", plural: "receipts of cuts", key: "ID",
		list: (*console.Client).Receipts, show: (*console.Client).Receipt,
		columns: []column[keyholder.Receipt]{
			{title: "id", text: func(r keyholder.Receipt, _ time.Time) string { return string(r.Receipt) }},
			{title: "at", text: func(r keyholder.Receipt, _ time.Time) string { return stamp(r.At) }},
			{title: "cut", text: func(r keyholder.Receipt, _ time.Time) string { return string(r.Target.Kind) + " " + r.Target.ID }},
			{title: "reason", text: func(r keyholder.Receipt, _ time.Time) string { return r.Reason }},
		},
		example: `  ID                                    AT                    CUT                                                REASON
  3c1b4f0e-9b7d-4a5c-8d4e-1f306f1e9a52  2026-11-24 09:30:00Z  subscription 2b4d4f6a-8c0e-4d1b-9f5a-7c027a3c5e1f  contract ended`,
	}
}

func runReceiptShow(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "receipt show", `
Shows the receipt of a cut. With -signed only the signed form is printed, a
compact JWS (RFC 7515) for keyholder receipt verify or any JOSE library.

example:
  $ keyholder receipt show 3c1b4f0e-9b7d-4a5c-8d4e-1f306f1e9a52 -signed > receipt.jws`, "ID").server().reading()
	signed := f.Bool("signed", false, "print the signed form alone")
	found, err := f.parse(args)
	if err != nil {
		return err
	}
	if *signed && *f.json {
		return f.wrong("-signed and -json are two forms; give one")
	}
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	r, err := c.Receipt(ctx, found[0])
	switch {
	case err != nil:
		return err
	case *signed:
		_, err = fmt.Fprintln(env.stdout, r.Signed)
		return err
	case *f.json:
		return printJSON(env.stdout, r)
	}
	return printReceipt(env.stdout, r)
}

func runReceiptVerify(_ context.Context, env *environment, args []string) error {
	f := newFlags(env, "receipt verify", `
Verifies a receipt with the published keys, without a server, and prints what it
says. FILE holds the signed form, or the receipt as JSON; - is standard input.
The keys are those of keyholder key list, or of /jwks at the authorization
server. Exit status 1 if the receipt is not genuine.

example:
  $ keyholder receipt verify -keys keys.json receipt.jws`, "FILE").reading()
	keysFile := f.need("keys", "`FILE`: public keys (JWKS, RFC 7517)")
	found, err := f.parse(args)
	if err != nil {
		return err
	}
	text, err := readFile(env, *keysFile)
	if err != nil {
		return err
	}
	var keys struct {
		Keys []keyring.HistoricalKey `json:"keys"`
	}
	if err := json.Unmarshal(text, &keys); err != nil || len(keys.Keys) == 0 {
		return &usageError{*keysFile + " holds no key set (JWKS)", "`keyholder key list` prints it"}
	}
	if text, err = readFile(env, found[0]); err != nil {
		return err
	}
	r, key, err := verifyReceipt(keys.Keys, bytes.TrimSpace(text))
	if err != nil {
		return err
	}
	switch at := key.Retired.Format(time.RFC3339); {
	case key.Compromised:
		fmt.Fprintf(env.stderr, "the receipt was signed by a key retired on %s because others may have it: compare it with `keyholder receipt show`\n", at)
	case !key.Retired.IsZero():
		fmt.Fprintf(env.stderr, "the receipt is genuine, signed by a key retired on %s\n", at)
	default:
		fmt.Fprintln(env.stderr, "the receipt is genuine")
	}
	if *f.json {
		return printJSON(env.stdout, r)
	}
	return printReceipt(env.stdout, r)
}

// verifyReceipt returns the receipt that was signed, and the key that signed
// it. Where the input is JSON, what it says must be what was signed.
func verifyReceipt(keys []keyring.HistoricalKey, text []byte) (keyholder.Receipt, keyring.HistoricalKey, error) {
	compact := string(text)
	var shown *keyholder.Receipt
	if bytes.HasPrefix(text, []byte("{")) {
		shown = &keyholder.Receipt{}
		if err := json.Unmarshal(text, shown); err != nil {
			return keyholder.Receipt{}, keyring.HistoricalKey{}, &usageError{"the receipt is not valid JSON", ""}
		}
		compact = shown.Signed
	}
	payload, key, err := keyring.VerifyHistorical(keys, compact, keyholder.ReceiptType)
	if err != nil {
		return keyholder.Receipt{}, key, err
	}
	var signed keyholder.Receipt
	if err := json.Unmarshal(payload, &signed); err != nil {
		return keyholder.Receipt{}, key, fmt.Errorf("read the signed receipt: %w", err)
	}
	signed.Signed = compact
	if shown != nil && !reflect.DeepEqual(*shown, signed) {
		return keyholder.Receipt{}, key, keyholder.Errorf(keyholder.Denied, "the receipt says something else than what was signed").
			WithHint("trust the signed form alone: verify the member \"signed\" in a file of its own")
	}
	// Times are whole seconds in the key set.
	if !key.Retired.IsZero() && signed.At.After(key.Retired.Add(time.Second)) {
		return keyholder.Receipt{}, key, keyholder.Errorf(keyholder.Denied, "the receipt is of a time when its key was retired already")
	}
	return signed, key, nil
}
