#Requires -Version 5.1
<#
.SYNOPSIS
Registers the scheduled task that makes this machine a device of the cluster at each logon of the current user.
.DESCRIPTION
Run it in an elevated PowerShell. The task runs start-device.ps1, which must stay where it is now.
.PARAMETER HeadAddress
Address of the head, HOST or HOST:PORT.
.PARAMETER Distribution
The WSL distribution in which the program is installed, in ~/orchestrate.
.PARAMETER Options
More words for `orchestrate join`, in one string, split at spaces.
.PARAMETER PortProxyAddress
Without mirrored networking: the address of Windows in the cluster's network. The task then runs elevated.
.PARAMETER Remove
Removes the task.
.EXAMPLE
.\register-logon-task.ps1 -HeadAddress 192.168.1.10 -Options '--name strix-halo-1'
#>
[CmdletBinding(DefaultParameterSetName = 'Register')]
param(
    [Parameter(Mandatory, ParameterSetName = 'Register')]
    [ValidatePattern('^[A-Za-z0-9.-]+(:[0-9]+)?$')]
    [string] $HeadAddress,

    [Parameter(ParameterSetName = 'Register')]
    [ValidatePattern('^[A-Za-z0-9._-]+$')]
    [string] $Distribution = 'Ubuntu',

    [Parameter(ParameterSetName = 'Register')]
    [ValidatePattern('^[^"]*$')]
    [string] $Options = '',

    [Parameter(ParameterSetName = 'Register')]
    [ValidatePattern('^([0-9]{1,3}(\.[0-9]{1,3}){3})?$')]
    [string] $PortProxyAddress = '',

    [Parameter(Mandatory, ParameterSetName = 'Remove')]
    [switch] $Remove
)
$ErrorActionPreference = 'Stop'
$name = 'Orchestrate device'

if ($Remove) {
    Stop-ScheduledTask -TaskName $name
    Unregister-ScheduledTask -TaskName $name -Confirm:$false
    return
}

$script = Join-Path $PSScriptRoot 'start-device.ps1'
$words = "-NoProfile -ExecutionPolicy Bypass -File `"$script`" -HeadAddress $HeadAddress -Distribution $Distribution"
if ($Options) { $words += " -Options `"$Options`"" }
if ($PortProxyAddress) { $words += " -PortProxyAddress $PortProxyAddress" }

$user = [System.Security.Principal.WindowsIdentity]::GetCurrent().Name
$level = if ($PortProxyAddress) { 'Highest' } else { 'Limited' }
$task = @{
    TaskName  = $name
    Action    = New-ScheduledTaskAction -Execute 'powershell.exe' -Argument $words
    Trigger   = New-ScheduledTaskTrigger -AtLogOn -User $user
    Principal = New-ScheduledTaskPrincipal -UserId $user -LogonType Interactive -RunLevel $level
    Settings  = New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries `
        -ExecutionTimeLimit ([TimeSpan]::Zero) -MultipleInstances IgnoreNew
}
Register-ScheduledTask @task -Force | Out-Null
Start-ScheduledTask -TaskName $name
Write-Output "Task '$name' is registered, and started. Its window shows what the node says; closing it ends the node."
