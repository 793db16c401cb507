package authserver

import "maps"

// accountTexts are the sentences of the account page.
var accountTexts = map[string][2]string{
	"account.title":            {"Your account", "Ihr Konto"},
	"account.lead":             {"Signed in as <strong>%s</strong> of %s.", "Angemeldet als <strong>%s</strong> von %s."},
	"account.signout":          {"Sign out", "Abmelden"},
	"account.required":         {"%s asks for a second factor. Until you have set one up here, you cannot share anything.", "%s verlangt einen zweiten Faktor. Bis Sie hier einen eingerichtet haben, können Sie nichts freigeben."},
	"account.totp":             {"Authenticator app", "Authenticator-App"},
	"account.totp-since":       {"Set up on %s.", "Eingerichtet am %s."},
	"account.totp-scan":        {"Scan this with your authenticator app, or type the key into it. Then enter the code it shows.", "Scannen Sie dieses Bild mit Ihrer Authenticator-App, oder tippen Sie den Schlüssel dort ein. Geben Sie dann den Code ein, den sie zeigt."},
	"account.totp-picture":     {"QR code of the key below", "QR-Code des Schlüssels darunter"},
	"account.totp-key":         {"Key:", "Schlüssel:"},
	"account.totp-code":        {"Code", "Code"},
	"account.totp-what":        {"An app on your phone shows a new code every 30 seconds.", "Eine App auf Ihrem Telefon zeigt alle 30 Sekunden einen neuen Code."},
	"account.setup":            {"Set up", "Einrichten"},
	"account.remove":           {"Remove", "Entfernen"},
	"account.remove-named":     {"Remove %s", "%s entfernen"},
	"account.passkeys":         {"Passkeys", "Passkeys"},
	"account.passkey-added":    {"added %s", "hinzugefügt am %s"},
	"account.passkey-used":     {", last used %s", ", zuletzt benutzt am %s"},
	"account.passkey-synced":   {", copied between your devices", ", zwischen Ihren Geräten kopiert"},
	"account.passkey-what":     {"A passkey signs you in without password, by the lock of your phone or computer.", "Ein Passkey meldet Sie ohne Passwort an, mit der Sperre Ihres Telefons oder Computers."},
	"account.passkey-failed":   {"No passkey was made.", "Es wurde kein Passkey angelegt."},
	"account.passkey-name":     {"Name of the new passkey", "Name des neuen Passkeys"},
	"account.passkey-example":  {"for example: my phone", "zum Beispiel: mein Telefon"},
	"account.passkey-add":      {"Add a passkey", "Passkey hinzufügen"},
	"account.passkey-script":   {"To add a passkey, this page needs a browser with passkeys, and script.", "Um einen Passkey hinzuzufügen, braucht diese Seite einen Browser mit Passkeys und Skript."},
	"account.passkey-no-name":  {"This server is reached by an address and not by a name, so it cannot use passkeys.", "Dieser Server ist über eine Adresse und nicht über einen Namen erreichbar, deshalb kann er keine Passkeys verwenden."},
	"account.recovery":         {"Recovery codes", "Wiederherstellungscodes"},
	"account.recovery-left":    {"%s unused. New ones replace all that you have.", "%s unbenutzt. Neue ersetzen alle, die Sie haben."},
	"account.recovery-draw":    {"Draw new ones", "Neue erzeugen"},
	"account.password":         {"Password", "Passwort"},
	"account.password-change":  {"Change the password", "Passwort ändern"},
	"account.password-present": {"Present password", "Jetziges Passwort"},
	"account.password-next":    {"New password, at least 12 characters", "Neues Passwort, mindestens 12 Zeichen"},
	"account.password-do":      {"Change", "Ändern"},
	"account.password-wrong":   {"The present password is wrong.", "Das jetzige Passwort ist falsch."},
	"account.password-rule":    {"A password has at least 12 and at most 1024 bytes.", "Ein Passwort hat mindestens 12 und höchstens 1024 Bytes."},
	"account.name-rule":        {"The name of the passkey is empty or too long.", "Der Name des Passkeys fehlt oder ist zu lang."},
	"account.passkey-known":    {"The passkey is registered already.", "Der Passkey ist schon registriert."},
	"account.impossible":       {"That is not possible as things are now.", "Das ist beim jetzigen Stand nicht möglich."},
	"account.events":           {"What happened lately", "Was zuletzt geschah"},
	"account.events-note":      {"Was something of this not you? Change your password, and tell those who run %s.", "Waren Sie das nicht? Ändern Sie Ihr Passwort und sagen Sie es den Betreibern von %s."},

	"recovery.title": {"Note your recovery codes", "Notieren Sie Ihre Wiederherstellungscodes"},
	"recovery.lead":  {"They are shown this one time. When you have lost your authenticator app or your passkey, each of them lets you in once, together with your password. Keep them apart from both.", "Sie werden nur dieses eine Mal gezeigt. Wenn Sie Ihre Authenticator-App oder Ihren Passkey verloren haben, lässt jeder von ihnen Sie einmal hinein, zusammen mit Ihrem Passwort. Bewahren Sie sie getrennt von beidem auf."},
	"recovery.done":  {"I have noted them", "Ich habe sie notiert"},

	"name.password":       {"the password", "das Passwort"},
	"name.totp":           {"the authenticator app", "die Authenticator-App"},
	"name.recovery":       {"a recovery code", "ein Wiederherstellungscode"},
	"name.passkey":        {"a passkey", "ein Passkey"},
	"name.synced_passkey": {"a passkey", "ein Passkey"},

	"event.signed-in-app":    {"Signed in for %s", "Angemeldet für %s"},
	"event.signed-in":        {"Signed in to this page", "Auf dieser Seite angemeldet"},
	"event.signed-out":       {"Signed out of this page", "Von dieser Seite abgemeldet"},
	"event.failed":           {"Sign-in failed at %s", "Anmeldung fehlgeschlagen: %s"},
	"event.factor-added":     {"Set up: %s", "Eingerichtet: %s"},
	"event.factor-removed":   {"Removed: %s", "Entfernt: %s"},
	"event.cloned":           {"A passkey was refused: it may have been copied", "Ein Passkey wurde abgelehnt: Er ist vielleicht kopiert worden"},
	"event.codes-drawn":      {"New recovery codes were drawn", "Neue Wiederherstellungscodes wurden erzeugt"},
	"event.password-changed": {"The password was changed", "Das Passwort wurde geändert"},
	"event.bound":            {"The administrator set who you are at your organisation's sign-in", "Die Administration hat festgelegt, wer Sie bei der Anmeldung Ihrer Organisation sind"},
	"event.reset":            {"The administrator reset your sign-in", "Die Administration hat Ihre Anmeldung zurückgesetzt"},
	"event.recovery-begun":   {"The administrator drew a code for a new password", "Die Administration hat einen Code für ein neues Passwort erzeugt"},
	"event.recovered":        {"A new password was set with the administrator's code", "Mit dem Code der Administration wurde ein neues Passwort gesetzt"},
	"event.unlocked":         {"The administrator ended a lock-out", "Die Administration hat eine Sperre aufgehoben"},
	"event.disabled":         {"The administrator disabled your sign-in", "Die Administration hat Ihre Anmeldung gesperrt"},
	"event.enabled":          {"The administrator enabled your sign-in", "Die Administration hat Ihre Anmeldung wieder zugelassen"},
	"event.other":            {"%s", "%s"},
}

// allTexts is every sentence of every page.
var allTexts = func() map[string][2]string {
	all := maps.Clone(texts)
	maps.Copy(all, accountTexts)
	return all
}()
