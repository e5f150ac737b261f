{{- define "sluice.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "sluice.tokenHost" -}}
{{- default .Values.publicHost .Values.registry.tokenHost }}
{{- end }}

{{/* Labels that select the pods of one component; takes root and component. */}}
{{- define "sluice.selector" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/part-of: sluice
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Name, namespace and labels of an object; takes root, component and, if it is another, name. */}}
{{- define "sluice.metadata" -}}
name: {{ default (printf "%s-%s" (include "sluice.fullname" .root) .component) .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "sluice.labels" . | nindent 2 }}
{{- end }}

{{/* The image of a program of ours; takes root, program and, for other than the common tag, image. */}}
{{- define "sluice.image" -}}
{{- $own := .image | default dict }}
{{- $name := printf "%s/%s" .root.Values.image.registry .program }}
{{- if $own.digest }}
{{- printf "%s@%s" $name $own.digest }}
{{- else }}
{{- printf "%s:%s" $name (coalesce $own.tag .root.Values.image.tag .root.Chart.AppVersion) }}
{{- end }}
{{- end }}

{{/* What the standard "restricted" asks of a pod, and no access to the API of Kubernetes. */}}
{{- define "sluice.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "sluice.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 65532
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Where pods run; takes root, component and values. */}}
{{- define "sluice.placement" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "sluice.spread" -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "sluice.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}

{{/* Variables of every program of ours; takes root and env, the component's own. */}}
{{- define "sluice.commonEnv" -}}
{{- with .root.Values.trust.configMap }}
- name: SSL_CERT_FILE
  value: /etc/sluice/trust/ca.crt
{{- end }}
{{- with .root.Values.log }}
- name: RUST_LOG
  value: {{ . | quote }}
{{- end }}
{{- with .root.Values.tracing.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- range $name, $value := merge (dict) (.env | default dict) .root.Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* The password of a user at NATS, and the authorities; takes root and user. */}}
{{- define "sluice.natsVolumes" -}}
- name: nats
  secret:
    secretName: {{ .root.Values.secrets.nats }}
    defaultMode: 0440
    items: [{key: {{ .user }}, path: password}]
{{- with .root.Values.nats.caSecret }}
- name: nats-ca
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- with .root.Values.trust }}
{{- if .configMap }}
- name: trust
  configMap:
    name: {{ .configMap }}
    items: [{key: {{ .key }}, path: ca.crt}]
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.natsMounts" -}}
- {name: nats, mountPath: /run/secrets/nats, readOnly: true}
{{- if .Values.nats.caSecret }}
- {name: nats-ca, mountPath: /run/secrets/nats-ca, readOnly: true}
{{- end }}
{{- if .Values.trust.configMap }}
- {name: trust, mountPath: /etc/sluice/trust, readOnly: true}
{{- end }}
{{- end }}

{{/* The components that are rendered, with what the objects of all of them need: `registry` and the jobs beside the services. */}}
{{- define "sluice.components" -}}
{{- include "sluice.services" . }}
{{- if .Values.registry.enabled }}
registry: {}
{{- end }}
{{- if .Values.provision.enabled }}
provision: {job: true}
{{- end }}
{{- if or .Values.resources.documents .Values.resources.configMap }}
apply: {job: true}
{{- end }}
{{- end }}
