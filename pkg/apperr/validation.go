package apperr

import "strconv"

// maxReported bounds the number of failing fields in one answer, so that a
// small request cannot ask for a huge response.
const maxReported = 100

// FieldError names one failing field of a body, path or query.
type FieldError struct {
	// Field is the JSON path ("email", "capabilities[2]"), the path or query
	// parameter, or "body" where the whole body is at fault.
	Field string `json:"field"`
	// Reason says what is wrong in words that follow the field's name: "must be a string".
	Reason string `json:"reason"`
}

// Fields collects failing fields, so that a client learns of all of them at
// once. The zero value is ready to use; it is not safe for concurrent use.
type Fields struct {
	list []FieldError
}

// Add records that field failed for this reason.
func (f *Fields) Add(field, reason string) {
	f.list = append(f.list, FieldError{Field: field, Reason: reason})
}

// All returns what was added, in order.
func (f *Fields) All() []FieldError { return f.list }

// Err is nil if nothing was added, else a VALIDATION_ERROR (an *Error) whose
// details.errors has the fields in the order in which they were added.
func (f *Fields) Err() error {
	if len(f.list) == 0 {
		return nil
	}
	return Validation(f.list...)
}

// Validation is a VALIDATION_ERROR that lists these fields in details.errors.
// Past a hundred of them only their number is told.
func Validation(fields ...FieldError) *Error {
	list := make([]FieldError, 0, min(len(fields), maxReported+1))
	list = append(list, fields[:min(len(fields), maxReported)]...)
	if more := len(fields) - maxReported; more > 0 {
		list = append(list, FieldError{Field: "body", Reason: "has " + strconv.Itoa(more) + " more errors"})
	}
	return New(ValidationError, "The request is not valid.").With(map[string]any{"errors": list})
}
