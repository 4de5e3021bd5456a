package apperr

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
)

// wire is the body of every error response.
type wire struct {
	Code    Code           `json:"code"`
	Message string         `json:"message"`
	Details map[string]any `json:"details,omitempty"`
}

// MarshalJSON is the body of the error response. It holds nothing that is not
// public: no cause, no challenge.
func (e *Error) MarshalJSON() ([]byte, error) {
	return json.Marshal(wire{Code: e.Code, Message: e.Message, Details: e.Details})
}

// Decode rebuilds the error of a peer's response. A body that is not ours, or
// whose code does not belong to the status, tells nothing that could be passed
// on: it becomes Unavailable (429 and 5xx) or Internal, with what was received
// as the cause. Numbers in Details are json.Number.
func Decode(status int, body []byte) *Error {
	var w wire
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&w); err == nil && w.Code.status() == status && status != 0 {
		return &Error{Code: w.Code, Message: w.Message, Details: w.Details}
	}
	cause := fmt.Errorf("response with status %d and no error body of ours: %.200q", status, body)
	if status == http.StatusTooManyRequests || status >= http.StatusInternalServerError {
		return Unavailable(cause)
	}
	return Internal(cause)
}
