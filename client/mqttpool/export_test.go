package mqttpool

// ParseMessage reads a message of a subscription.
var ParseMessage = parseMessage
