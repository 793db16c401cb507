package authserver

// Texts are the sentences of the pages.
var Texts = allTexts
